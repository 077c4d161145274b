"""A task of lm-eval on one language's items: its requests, and its scores of stored answers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lensflow.benchmarks.base import Items, Row
from lensflow.benchmarks.lm_eval.files import check_file
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import MARK


class Settings(Protocol):
    """What a task needs to know of its benchmark; see `lensflow.benchmarks.lm_eval.kind.Task`."""

    @property
    def functions(self) -> bool:
        """Whether a task file of one's own may name Python functions."""

    @property
    def chat(self) -> bool:
        """Whether contexts are rendered in the backbone's prompt format."""

    @property
    def fewshot_seed(self) -> int:
        """Seed of the examples that are drawn."""

    @property
    def metrics(self) -> Mapping[str, str]:
        """Name in the tables -> lm-eval's metric."""


def _sandbox() -> None:
    """Have lm-eval render templates, which come with task files and overrides, where they cannot run code."""
    import lm_eval.utils
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    if not isinstance(lm_eval.utils.env, SandboxedEnvironment):
        sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters.update(lm_eval.utils.env.filters)
        lm_eval.utils.env = sandbox


def _check_metrics(config: Mapping[str, Any]) -> None:
    """Refuse metrics that lm-eval would fetch the code of.

    Raises:
        ValueError: names one.
    """
    import lm_eval.api.metrics  # fills the registry
    import lm_eval.api.registry

    if config.get("process_results") is not None:
        return  # its names are those of what the task's own function gives
    for entry in config.get("metric_list") or []:
        name = entry.get("metric")
        if entry.get("hf_evaluate") or (isinstance(name, str) and name not in lm_eval.api.registry.metric_registry):
            raise ValueError(f"metric '{name}' is not one of lm-eval's own, and code is not fetched")


class LoadedTask:
    """One task on one language's items.

    Args:
        task: the benchmark.
        path: the task's file.
        items: id -> item of the data set, in order.
        fewshot: the same of the split that examples are taken from.
        constants: what every item carries beside its own columns.
        overrides: keys of the task's file with other values.

    Raises:
        LensflowError: the task's file is not valid, or does not fit the items.
    """

    def __init__(
        self,
        task: Settings,
        path: Path,
        items: Items,
        fewshot: Items,
        constants: Mapping[str, Any],
        overrides: Mapping[str, Any],
    ) -> None:
        import logging

        import datasets
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml  # lm-eval has no public way to read a file without its data

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every data set that is not the hub's
        self.task, self.ids, self.path = task, list(items), path
        check_file(path, task.functions)
        _sandbox()

        def data(rows: Iterable[Mapping[str, Any]]) -> Any:
            return datasets.Dataset.from_list([{**row, **constants} for row in rows])

        splits = {"items": data(items.values())}
        if fewshot:
            splits["fewshot"] = data(fewshot.values())
        try:
            loaded: dict[str, Any] = load_yaml(path)
        except Exception as error:  # a function's module can fail in any way
            raise LensflowError(f"task {path.name}: {_cause(error)}; mend the file") from error
        config = loaded | {
            "custom_dataset": lambda **_: splits,
            "test_split": "items",
            "validation_split": None,
            "training_split": None,
            "fewshot_split": "fewshot" if fewshot else None,
            "num_fewshot": 0,
        }
        config = config | dict(overrides)
        for key in ("tag", "group", "dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        self.name = str(config.get("task"))
        try:
            _check_metrics(config)
            self.loaded = ConfigurableTask(config=config)
        except Exception as error:  # templates and functions of task files fail in ways of their own
            raise LensflowError(f"task {path.name}: {_cause(error)}; check its columns and templates") from error
        # Its own entry point seeds the generator that draws examples; every checkpoint must be shown the same ones.
        self.loaded.set_fewshot_seed(task.fewshot_seed)

    def ask(self, lm: Any) -> list[Row]:
        """Have a model answer the task's requests; return one row per request, in lm-eval's order."""
        try:
            self.loaded.build_all_requests(
                apply_chat_template=self.task.chat,
                chat_template=lm.apply_chat_template if self.task.chat else None,
                tokenizer_name=lm.tokenizer_name,
            )
            requests = [copy for request in self.loaded.instances for copy in [request] * request.repeats]
            kinds = list(dict.fromkeys(request.request_type for request in requests))
            rows: list[Row] = []
            for kind in kinds:
                of_kind = [request for request in requests if request.request_type == kind]
                for request, said in zip(of_kind, getattr(lm, kind)(of_kind), strict=True):
                    prompt = str(request.args[0]).replace(MARK, "")
                    rows.append({"item": self.ids[request.doc_id], "request": kind, "prompt": prompt, **said})
            return rows
        except LensflowError:
            raise
        except Exception as error:
            raise LensflowError(f"task {self.path.name}: {_cause(error)}; check its columns and templates") from error

    def samples(self, lm: Any, rows: Sequence[Row]) -> list[Row]:
        """Score stored answers; return one sample per item: id, prompt, answers, target and each metric's value.

        Args:
            lm: a model that gives the stored answers again.
            rows: what `ask` returned.

        Raises:
            LensflowError: the task fails on an item, or does not give a metric that the benchmark names.
        """
        from lm_eval.evaluator import evaluate

        try:
            results = evaluate(
                lm,
                {"tasks": {self.name: self.loaded}},
                bootstrap_iters=0,
                log_samples=True,
                apply_chat_template=self.task.chat,
            )
        except Exception as error:
            raise LensflowError(f"task {self.path.name}: {_cause(error)}; check its columns and templates") from error
        prompts: dict[str, list[str]] = {}
        for row in rows:
            prompts.setdefault(row["item"], []).append(row["prompt"])
        found: dict[int, Row] = {}
        for logged in results["samples"][self.name]:
            id_ = self.ids[logged["doc_id"]]
            asked = prompts[id_] if len(set(prompts[id_])) > 1 else prompts[id_][:1]
            sample = {"id": id_, "prompt": asked, "responses": logged["resps"], "target": logged["target"]}
            sample = found.setdefault(logged["doc_id"], sample)
            for name, wanted in self.task.metrics.items():
                metric, _, named = wanted.partition(",")
                if named in ("", logged["filter"]):
                    if metric not in logged:
                        known = ", ".join(key for key in logged["metrics"])
                        raise LensflowError(f"task {self.path.name}: no metric '{metric}'; it gives {known}")
                    sample[name] = float(logged[metric])
        for name, wanted in self.task.metrics.items():
            if any(name not in sample for sample in found.values()):
                raise LensflowError(f"task {self.path.name}: no filter gives '{wanted}'; correct metrics.{name}")
        return [found[index] for index in sorted(found)]


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text}"[:200].strip()
