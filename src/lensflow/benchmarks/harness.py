"""lm-eval's tasks on whichever engine is at hand."""

import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lensflow.benchmarks.lm_eval import Task
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import MARK, PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.dataset import LanguageEntry
from lensflow.schema.decoding import Decoding
from lensflow.schema.messages import IN_WORDS
from lensflow.schema.types import TASK_PATTERN
from lensflow.storage.parsing import LARGEST_YAML, read_text, read_yaml

_INCLUDE = re.compile(r"^include:\s*[\"']?([^\"'\s]+)", re.MULTILINE)
_FUNCTION = re.compile(r"!function\s+([\w.]+)\.\w+")


def task_name(task: Task, entry: LanguageEntry) -> str:
    """Return the folder and name of a language's task, such as `xcopa/xcopa_zh`.

    Raises:
        LensflowError: it leads out of the folders that tasks are looked for in.
    """
    name = (entry.task or task.task).replace("{code}", entry.config)
    if not re.match(TASK_PATTERN, name):
        raise LensflowError(f"task {name}: {IN_WORDS[TASK_PATTERN]}; mend the language's config or task")
    return name


def check_file(path: Path, functions: bool) -> None:
    """Check a task file and what it includes, before lm-eval reads it; nothing in it runs.

    Args:
        path: the file.
        functions: whether files of one's own may name Python functions; lm-eval's may.

    Raises:
        LensflowError: a file is missing, too large or no YAML mapping, or names a function that must not run.
    """
    pending, seen = [path], set[Path]()
    while pending:
        here = pending.pop().resolve()
        if here in seen:
            continue
        seen.add(here)
        content = read_yaml(here, _TaskLoader)
        if not isinstance(content, dict):
            raise LensflowError(f"{here}: must be a mapping, as lm-eval's task files are")
        trusted = functions or here.is_relative_to(_installed().resolve())
        if not trusted and (named := _TaskLoader.function_in(content)):
            raise LensflowError(
                f"{here}: names the Python function {named}, which would run; look at it, then set functions: true"
            )
        included = content.get("include", [])
        for name in included if isinstance(included, list) else [included]:
            if not isinstance(name, str):
                raise LensflowError(f"{here}: include must name files; mend it")
            pending.append(here.parent / name)


class _Function(str):
    """The name of a function in a task file."""


class _TaskLoader(yaml.SafeLoader):
    """Reads task files without importing the functions that they name."""

    @staticmethod
    def function_in(value: Any) -> str | None:
        """The first function that is named in a value."""
        if isinstance(value, _Function):
            return value
        parts = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ()
        return next((found for part in parts if (found := _TaskLoader.function_in(part))), None)


def _function(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> _Function:
    return _Function(loader.construct_scalar(node))


_TaskLoader.add_constructor("!function", _function)


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


def task_file(name: str, roots: Sequence[Path]) -> Path:
    """Find the file of a task `folder/name`: below one of the folders, in their order, else below lm-eval's own tasks.

    Raises:
        LensflowError: there is no such folder, or no file in it defines the task.
    """
    folder, _, wanted = name.rpartition("/")
    existing = [root / folder for root in (*roots, _installed()) if (root / folder).is_dir()]
    if not existing:
        raise LensflowError(f"task {name}: no folder {folder}, neither here nor among lm-eval's tasks")
    defines = re.compile(rf"^task:\s*[\"']?{re.escape(wanted)}[\"']?\s*$", re.MULTILINE)
    for place in existing:
        for path in sorted(place.glob("*.y*ml")):
            if defines.search(read_text(path, LARGEST_YAML)):
                return path
    raise LensflowError(
        f"task {name}: no file in {existing[0]} defines a task of this name; name another for the language "
        "(languages.*.task), or write a task file"
    )


def _installed() -> Path:
    """The folder of lm-eval's own tasks."""
    spec = importlib.util.find_spec("lm_eval")  # found, not imported: that takes seconds
    return Path(spec.origin).parent / "tasks" if spec and spec.origin else Path()


def file_digest(path: Path) -> str:
    """Digest of a task file, the files that it includes and the modules whose functions it names.

    Raises:
        LensflowError: one of them is missing.
    """
    pending, seen = [path], dict[Path, str]()
    while pending:
        here = pending.pop().resolve()
        if here in seen:
            continue
        seen[here] = text = read_text(here, LARGEST_YAML)
        pending += [here.parent / name for name in _INCLUDE.findall(text)]
        pending += [here.parent / f"{name.replace('.', '/')}.py" for name in _FUNCTION.findall(text)]
    checksum = hashlib.sha256()
    for _, text in sorted((found.name, text) for found, text in seen.items()):
        checksum.update(text.encode())
    return checksum.hexdigest()


class TaskRun:
    """One task on one language's items.

    Args:
        task: the benchmark.
        entry: what is particular to the language.
        path: the task's file.
        items: id -> item of the data set, in order.
        fewshot: the same of the split that examples are taken from.
        variables: what every item carries beside its own columns.

    Raises:
        LensflowError: the task's file is not valid, or does not fit the items.
    """

    def __init__(
        self,
        task: Task,
        entry: LanguageEntry,
        path: Path,
        items: Mapping[str, Mapping[str, Any]],
        fewshot: Mapping[str, Mapping[str, Any]],
        variables: Mapping[str, Any],
    ) -> None:
        import logging

        import datasets
        from lm_eval.api.task import ConfigurableTask
        from lm_eval.tasks._yaml_loader import load_yaml  # lm-eval has no public way to read a file without its data

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of every data set that is not the hub's
        self.task, self.ids, self.path = task, list(items), path
        check_file(path, task.functions)
        _sandbox()
        constants = {**variables, **task.variables, **entry.variables}

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
        config = config | task.overrides | entry.overrides
        for key in ("tag", "group", "dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        self.name = str(config.get("task"))
        try:
            _check_metrics(config)
            self.loaded = ConfigurableTask(config=config)
        except Exception as error:  # templates and functions of task files fail in ways of their own
            raise LensflowError(f"task {path.name}: {_cause(error)}; check its columns and templates") from error

    def run(self, lm: Any) -> list[dict[str, Any]]:
        """Evaluate; return one sample an item: id, prompt, answers, target and, for each metric, its value.

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
        except LensflowError:
            raise
        except Exception as error:
            raise LensflowError(f"task {self.path.name}: {_cause(error)}; check its columns and templates") from error
        rows: dict[int, dict[str, Any]] = {}
        for logged in results["samples"][self.name]:
            row = rows.setdefault(
                logged["doc_id"],
                {
                    "id": self.ids[logged["doc_id"]],
                    "prompt": [str(arguments[0]).replace(MARK, "") for arguments in _arguments(logged)],
                    "responses": logged["resps"],
                    "target": logged["target"],
                },
            )
            for name, wanted in self.task.metrics.items():
                metric, _, named = wanted.partition(",")
                if named in ("", logged["filter"]):
                    if metric not in logged:
                        known = ", ".join(key for key in logged["metrics"])
                        raise LensflowError(f"task {self.path.name}: no metric '{metric}'; it gives {known}")
                    row[name] = float(logged[metric])
        for name, wanted in self.task.metrics.items():
            if any(name not in row for row in rows.values()):
                raise LensflowError(f"task {self.path.name}: no filter gives '{wanted}'; correct metrics.{name}")
        return [rows[index] for index in sorted(rows)]


def _arguments(logged: Mapping[str, Any]) -> list[Any]:
    """The arguments of a sample's requests, one context where all share it."""
    arguments = logged["arguments"]
    pairs = list(arguments.values()) if isinstance(arguments, dict) else list(arguments)
    pairs = [list(pair.values()) if isinstance(pair, dict) else pair for pair in pairs]
    return pairs if len({str(pair[0]) for pair in pairs}) > 1 else pairs[:1]


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text}"[:200].strip()


def engine_lm(
    tokenizer: PromptTokenizer,
    score: Callable[[list[tuple[list[int], list[int]]]], list[tuple[float, bool]]],
    generate: Callable[[list[list[int]], Decoding], list[str]],
    instruct: Callable[[str], str],
    chat: bool,
) -> Any:
    """Return an lm-eval model on top of engines: lm-eval builds the requests, they answer them.

    Args:
        tokenizer: of the backbone.
        score: `Engine.loglikelihoods` of the engine that scores.
        generate: `Engine.generate` of the engine that generates.
        instruct: puts an instruction to what the user says last, in a conversation.
        chat: whether contexts are rendered in the backbone's prompt format, which brings its own special tokens.
    """
    from lm_eval.api.model import TemplateLM

    plain = isinstance(tokenizer.prompt, PlainPrompt)

    class EngineLM(TemplateLM):  # type: ignore[misc]
        """Token ids as lm-eval's own `hf` model makes them."""

        tokenizer_name = "lensflow"

        @property
        def eot_token_id(self) -> int:
            """Return the token that stands for an empty context; no task here has one."""
            raise LensflowError("a task with an empty context is not supported; give it a prompt")

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
            """Return a text's token ids, with special tokens where no chat template has written them."""
            wanted = (plain or not chat) if add_special_tokens is None else add_special_tokens
            return tokenizer.ids_of(string if chat else tokenizer.literal(string), wanted)

        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            pair: tuple[list[int], list[int]] = super()._encode_pair(
                context, tokenizer.literal(continuation) if chat else continuation
            )
            return pair

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            """Render a conversation in the backbone's prompt format."""
            asked = max(i for i, message in enumerate(chat_history) if message["role"] == "user")
            question = chat_history[asked] | {"content": instruct(chat_history[asked]["content"])}
            rendered = tokenizer.conversation([*chat_history[:asked], question, *chat_history[asked + 1 :]])
            # lm-eval puts nothing between a rendered prompt and an answer; a plain template's wants a space there.
            return rendered if not plain or rendered[-1:].isspace() else f"{rendered} "

        def chat_template(self, chat_template: bool | str = False) -> str:
            """Name the template, for lm-eval's records."""
            return tokenizer.prompt.format

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **_: Any
        ) -> list[tuple[float, bool]]:
            return score([(context, continuation) for _, context, continuation in requests])

        def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
            """Refuse: held-out likelihood is a benchmark kind of its own."""
            raise LensflowError("tasks of type loglikelihood_rolling are not supported; use kind likelihood")

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            """Generate answers; requests with the same settings go to the engine together."""
            answers = [""] * len(requests)
            groups: dict[Decoding, list[int]] = {}
            for index, request in enumerate(requests):
                groups.setdefault(decoding(request.args[1]), []).append(index)
            for settings, indices in groups.items():
                contexts = [requests[index].args[0] for index in indices]
                if plain and chat:
                    contexts = [context.removesuffix(" ") for context in contexts]  # what apply_chat_template added
                prompts = [self.tok_encode(context) for context in contexts]
                for index, answer in zip(indices, generate(prompts, settings), strict=True):
                    answers[index] = answer
            return answers

    return EngineLM()


def decoding(settings: Mapping[str, Any]) -> Decoding:
    """Read lm-eval's generation settings, `until`, `max_gen_toks` (256 by default), `do_sample` and the like."""
    until = settings.get("until") or []
    sampled = settings.get("do_sample", False) and settings.get("temperature", 1.0) > 0
    return Decoding(
        max_new_tokens=settings.get("max_gen_toks", settings.get("max_new_tokens", 256)),
        stop=tuple([until] if isinstance(until, str) else until),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(settings.get("top_p", 1.0)),
    )
