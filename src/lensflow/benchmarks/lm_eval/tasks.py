"""A task of lm-eval on the items of one language: its requests, and the scores of stored answers."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from string import ascii_letters, ascii_uppercase
from typing import Any, Protocol

import numpy as np

from lensflow.artifacts.items import folded, identity
from lensflow.benchmarks.base import Items, Row
from lensflow.benchmarks.lm_eval.decoding import decoding
from lensflow.benchmarks.lm_eval.files import check_file
from lensflow.errors import LensflowError
from lensflow.models.tokenizer import MARK
from lensflow.schema.dataset import Dataset


class Settings(Protocol):
    """What a task needs to know about its benchmark; see `lensflow.benchmarks.lm_eval.kind.Task`."""

    @property
    def functions(self) -> bool:
        """Whether the user's own task file may name Python functions."""

    @property
    def chat(self) -> bool:
        """Whether contexts are rendered in the backbone's prompt format."""

    @property
    def fewshot_seed(self) -> int:
        """Seed of the few-shot examples that are drawn."""

    @property
    def metrics(self) -> Mapping[str, str]:
        """Name in the tables -> lm-eval's metric."""

    @property
    def dataset(self) -> Dataset:
        """Where its items come from."""


def _sandbox() -> None:
    """Make lm-eval render templates in a sandbox, where they cannot run code.

    Templates come with task files and overrides.
    """
    import lm_eval.utils
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    if not isinstance(lm_eval.utils.env, SandboxedEnvironment):
        sandbox = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        sandbox.filters.update(lm_eval.utils.env.filters)
        lm_eval.utils.env = sandbox


def _check_metrics(config: Mapping[str, Any]) -> None:
    """Refuse metrics whose code lm-eval would download.

    Raises:
        ValueError: a metric is such a metric; the message names it.
    """
    import lm_eval.api.metrics  # fills the registry
    import lm_eval.api.registry

    if config.get("process_results") is not None:
        return  # its names are those of what the task's own function gives
    for entry in config.get("metric_list") or []:
        if not isinstance(entry, Mapping):
            raise ValueError(f"metric_list: {entry!r} is not a mapping")
        name = entry.get("metric")
        if entry.get("hf_evaluate") or (isinstance(name, str) and name not in lm_eval.api.registry.metric_registry):
            raise ValueError(f"metric '{name}' is not one of lm-eval's own, and code is not fetched")


class NoChoiceError(ValueError):
    """The right answer of an item is not one of its choices."""


_ID = "lensflow_id"  # the column with an item's id
_COLUMN = re.compile(r"\s*\{\{-?\s*(\w+)\s*-?\}\}\s*")  # a template of one column
_SINGLE = re.compile(r"(?<!\{)\{(\w+)\}(?!\})")  # what Jinja leaves as it is
_LETTER, _NUMBER = "letter", "number"  # how a right answer is written
_EXAMPLES = 2000  # most examples that are checked
_NO_CHANCE = 1e-3  # a probability that is taken for none
_WITH_TARGET = frozenset(
    {"exact_match", "bleu", "chrf", "ter", "f1"}
)  # metrics that compare an answer with the right one


def place_of(target: Any, choices: Sequence[str]) -> int | list[int]:
    """Return the position of the right answer, or of each of several, among n choices.

    Args:
        target: a position from 0, the text of a choice, or a letter: A is the first.
        choices: the possible answers.

    Raises:
        NoChoiceError: the target names no choice.
    """
    if not choices:
        raise NoChoiceError("there are no choices")
    if isinstance(target, list | tuple):
        if not target:
            raise NoChoiceError("it has no right answer")
        return [_position(each, choices) for each in target]
    return _position(target, choices)


def _position(target: Any, choices: Sequence[str]) -> int:
    if isinstance(target, bool):  # a position to Python: True would be the second choice, which may read "False"
        texts = [folded(str(choice)) for choice in choices]
        place = texts.index(folded(str(target))) if folded(str(target)) in texts else None
    elif isinstance(target, str):
        place = _position_of_text(target, choices)
    else:
        place = int(target) if isinstance(target, int | float) and float(target).is_integer() else None
    if place is None or not 0 <= place < len(choices):
        shown = ", ".join(map(repr, choices))[:200]
        counted = "; these seem to count from 1" if place == len(choices) else ""
        raise NoChoiceError(
            f"the right answer {target!r} names none of the choices {shown}; it may be a position from 0{counted}, "
            "a letter or the text of a choice"
        )
    return list(choices).index(choices[place])  # of choices with one text lm-eval gives the first one


def _position_of_text(target: str, choices: Sequence[str]) -> int | None:
    texts = [folded(str(choice)) for choice in choices]
    if target in choices or folded(target) in texts:
        return list(choices).index(target) if target in choices else texts.index(folded(target))
    letter = target.strip(" ().:")
    if len(letter) == 1 and letter in ascii_letters:
        return ascii_uppercase.index(letter.upper())
    return int(letter) if letter.isdecimal() and letter.isascii() else None


def _per_item(aggregation: Any, metric: str, value: Any) -> float:
    """Return the score of an item: a number, or for chrF, BLEU and TER the score of its sentence.

    Raises:
        LensflowError: the metric is one of the whole corpus.
    """
    from lm_eval.api import metrics

    if isinstance(value, int | float | np.number):
        return float(value)
    if aggregation == metrics.bleu:
        import sacrebleu

        reference, answer = value  # with the effective order, as sacrebleu wants it for a single sentence
        references = [reference] if isinstance(reference, str) else list(reference)
        return float(sacrebleu.sentence_bleu(answer, references).score)
    if aggregation in (metrics.chrf, metrics.chrfpp, metrics.ter):
        return float(aggregation([value]))
    raise LensflowError(
        f"metric '{metric}' has no score for a single item, which intervals and tests need; use another"
    )


def _measured(config: Mapping[str, Any], metrics: Mapping[str, str]) -> Any:
    """Return the metrics of a task that are measured. lm-eval would fail on other metrics that do not fit the task."""
    listed = config.get("metric_list")
    if config.get("process_results") is not None or not isinstance(listed, list):
        return listed
    names = {wanted.partition(",")[0] for wanted in metrics.values()}
    return [one for one in listed if isinstance(one, Mapping) and str(one.get("metric")) in names] or listed


def _column_alone(template: Any, item: Mapping[str, Any]) -> Any:
    """Return the name of the column that a template shows and nothing else; other templates are returned unchanged.

    If a template shows digits, lm-eval takes them for a position, although they may be the text of a choice.
    """
    found = _COLUMN.fullmatch(template) if isinstance(template, str) else None
    return found[1] if found and found[1] in item else template


class LoadedTask:
    """One task on one language's items.

    Args:
        task: the benchmark.
        path: the task's file.
        items: id -> item of the data set, in order.
        fewshot: id -> item of the split from which examples are taken.
        constants: values that every item gets in addition to its own columns.
        overrides: keys of the task's file that get other values.

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
        self.task, self.path = task, path
        check_file(path, task.functions)
        _sandbox()

        def data(rows: Iterable[Mapping[str, Any]]) -> Any:
            return datasets.Dataset.from_list([{**row, **constants} for row in rows])

        # A task's own function may drop items or change their order, so each of them carries its id.
        asked = [{**item, _ID: id_} for id_, item in items.items()]
        try:
            splits = {"items": data(asked)} | ({"fewshot": data(fewshot.values())} if fewshot else {})
        except Exception as error:  # Arrow's: a column holds text here and numbers there
            raise LensflowError(f"task {path.name}: {_cause(error)}; give each column one type") from error
        try:
            loaded: dict[str, Any] = load_yaml(path)
        except Exception as error:  # a function's module can fail in any way
            raise LensflowError(f"task {path.name}: {_cause(error)}; correct the file") from error
        config = loaded | {
            "custom_dataset": lambda **_: splits,
            "test_split": "items",
            "validation_split": None,
            "training_split": None,
            "fewshot_split": "fewshot" if fewshot else None,
        }
        config = {"num_fewshot": 0} | config | dict(overrides)
        if isinstance(config.get("fewshot_config"), Mapping):
            config["fewshot_config"] = {k: v for k, v in config["fewshot_config"].items() if k != "split"}
        for key in ("tag", "group", "dataset_path", "dataset_name", "dataset_kwargs"):
            config.pop(key, None)
        config["metric_list"] = _measured(config, task.metrics)
        if config.get("doc_to_choice") is not None:
            config["doc_to_target"] = _column_alone(config.get("doc_to_target"), next(iter(items.values()), {}))
        self.name = str(config.get("task"))
        try:
            _check_metrics(config)
            self.loaded = _choosing(ConfigurableTask)(config=config)
        except NoChoiceError as error:
            raise self._wrong_target(error, f"item '{next(iter(items))}'") from None
        except Exception as error:  # templates and functions of task files fail in ways of their own
            raise LensflowError(f"task {path.name}: {_cause(error)}; check its columns and templates") from error
        self.ids = self._ids_of(list(items))
        # Its own entry point seeds the generator that draws examples; every checkpoint must be shown the same ones.
        self.loaded.set_fewshot_seed(task.fewshot_seed)
        self._check_examples(items)

    def _ids_of(self, ids: list[str]) -> list[str]:
        """Return the ids of the items that the task asks, in its order."""
        docs = list(self.loaded.test_docs())
        if not docs:
            raise LensflowError(f"task {self.path.name}: process_docs leaves none of {len(ids)} items; correct it")
        found = [doc.get(_ID) for doc in docs]
        if None not in found:
            return list(map(str, found))
        if len(docs) != len(ids):
            raise LensflowError(
                f"task {self.path.name}: process_docs makes {len(docs)} items of {len(ids)}, and they have other "
                "columns; keep the columns of the items"
            )
        return ids

    def check_targets(self) -> None:
        """Check that the right answer of every item, and of the examples before it, is one of its choices.

        Raises:
            LensflowError: a right answer is not a choice; the message names the item.
        """
        docs = {f"item '{id_}'": doc for id_, doc in zip(self.ids, self.loaded.test_docs(), strict=False)}
        for where, doc in docs.items():
            with self._named(where):
                self._check_text(doc, where)
        spelt, chance = self._check_spelling(docs)
        if _NUMBER in spelt and 0 < chance < _NO_CHANCE:
            raise LensflowError(
                f"task {self.path.name}: of {len(docs)} right answers, all numbers, none is 0, the first choice; "
                "they seem to count from 1; subtract 1 in doc_to_target"
            )
        self._check_questions()
        settings = self.loaded.fewshot_cfg
        if self.loaded.config.num_fewshot and settings.doc_to_target == self.loaded.config.doc_to_target:
            found = islice(self.loaded.fewshot_docs() or (), _EXAMPLES)
            examples = {f"example {number} of num_fewshot": doc for number, doc in enumerate(found, start=1)}
            spelt = self._check_spelling(examples)[0] | spelt
        if len(spelt) > 1:  # ARC has A to D and, here and there, 1 to 4, where 1 is the first
            raise LensflowError(
                f"task {self.path.name}: the right answer of {spelt[_LETTER]} is a letter, that of {spelt[_NUMBER]} a "
                "number, which may count from 0 or from 1; make all of them letters, or positions from 0"
            )

    @contextmanager
    def _named(self, where: str) -> Iterator[None]:
        try:
            yield
        except NoChoiceError as error:
            raise self._wrong_target(error, where) from None
        except LensflowError:
            raise
        except Exception as error:
            raise LensflowError(
                f"task {self.path.name}, {where}: {_cause(error)}; check its columns and templates"
            ) from error

    def _check_spelling(self, docs: Mapping[str, Any]) -> tuple[dict[str, str], float]:
        """Check that right answers are choices.

        Returns:
            For each way of writing them where it stands first, and how likely it is that no number is 0.
        """
        spelt: dict[str, str] = {}
        chance = 1.0
        for where, doc in docs.items():
            with self._named(where):
                place, spelling = self.loaded.doc_to_target(doc), self.loaded.spelling(doc)
                if spelling == _NUMBER:
                    chance *= 0 if place == 0 else 1 - 1 / len(self.loaded.doc_to_choice(doc))
                if spelling:
                    spelt.setdefault(spelling, where)
        return spelt, chance

    def _check_questions(self) -> None:
        """Check that items have different prompts or choices, and that free answers can end."""
        loaded = self.loaded
        if loaded.OUTPUT_TYPE not in ("generate_until", "multiple_choice"):
            return
        if loaded.OUTPUT_TYPE == "generate_until":
            try:
                decoding(loaded.config.generation_kwargs or {})
            except LensflowError as error:
                raise LensflowError(f"task {self.path.name}: {error}") from None
        chosen = loaded.config.doc_to_choice is not None
        asked = [(loaded.doc_to_text(doc), loaded.doc_to_choice(doc) if chosen else None) for doc in loaded.test_docs()]
        if len(asked) > 1 and asked.count(asked[0]) == len(asked):
            raise LensflowError(
                f"task {self.path.name}: all {len(asked)} items are asked {asked[0][0]!r:.60}; name a column in "
                "doc_to_text, such as {{question}}"
            )

    def _check_text(self, doc: Any, where: str) -> None:
        """Check that the prompt of an item is text, and that there is a reference text if a metric needs one."""
        config, where = self.loaded.config, f"task {self.path.name}, {where}"
        shown = _check_written(config.doc_to_text, doc, f"{where}: doc_to_text", (Mapping, list, tuple))
        if shown and all(isinstance(value, str) and not folded(value) for value in shown):
            raise LensflowError(f"{where}: doc_to_text shows nothing but empty columns; fill them or remove the item")
        if config.doc_to_choice is None:  # a list holds several right answers
            _check_written(config.doc_to_target, doc, f"{where}: doc_to_target", (Mapping,))
        if (
            config.doc_to_choice is None
            and {str(entry.get("metric")) for entry in config.metric_list or ()} & _WITH_TARGET
        ):
            target = self.loaded.doc_to_target(doc)
            right = target if isinstance(target, list) else [target]
            if not right or any(text is None or not str(text).strip() for text in right):
                raise LensflowError(f"{where}: the right answer is empty; fill it or remove the item")

    def _wrong_target(self, error: NoChoiceError, where: str) -> LensflowError:
        return LensflowError(f"task {self.path.name}, {where}: {error}; correct doc_to_target or the item")

    def _check_examples(self, items: Items) -> None:
        """Check that there are enough examples, and that none is an evaluated item."""
        wanted = self.loaded.config.num_fewshot or 0
        if not wanted:
            return
        examples = list(self.loaded.fewshot_docs() or [])
        if len(examples) < wanted:
            raise LensflowError(f"overrides.num_fewshot: {wanted} is more than the {len(examples)} examples; lower it")
        columns = self.task.dataset.columns
        seen = {identity(item, columns): id_ for id_, item in items.items()}
        for number, example in enumerate(examples, start=1):
            if (same := identity(example, columns)) in seen:
                raise LensflowError(
                    f"task {self.path.name}: example {number} of num_fewshot is the evaluated item '{seen[same]}'; "
                    "remove it from the examples"
                )

    def _score_of(self, metric: str, value: Any) -> float:
        try:
            return _per_item(self.loaded.aggregation().get(metric), metric, value)
        except LensflowError as error:
            raise LensflowError(f"task {self.path.name}: {error}") from None

    def ask(self, lm: Any) -> list[Row]:
        """Have a model answer the task's requests; return one row per request, in lm-eval's order."""
        self.check_targets()
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
            lm: a model that returns the stored answers.
            rows: the rows that `ask` returned.

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
                    sample[name] = self._score_of(metric, logged[metric])
        for name, wanted in self.task.metrics.items():
            if any(name not in sample for sample in found.values()):
                raise LensflowError(f"task {self.path.name}: no filter gives '{wanted}'; correct metrics.{name}")
        return [found[index] for index in sorted(found)]


def _check_written(template: Any, doc: Mapping[str, Any], where: str, refused: tuple[type, ...]) -> list[Any]:
    """Return the values of an item that a template shows, after checking that they are text or numbers.

    Args:
        template: a template of lm-eval, or the name of a column.
        doc: the item.
        where: the beginning of a message.
        refused: types that Python would print in its own notation.

    Raises:
        LensflowError: the template would show one of these types, or `None` for an empty column.
    """
    from jinja2.sandbox import SandboxedEnvironment

    values: list[Any] = []

    def shown(value: Any) -> Any:
        values.append(value)
        if value is None or isinstance(value, refused):
            kind = "nothing" if value is None else f"a {'dictionary' if isinstance(value, Mapping) else 'list'}"
            raise LensflowError(f"{where} shows {kind}, {value!r:.60}, not text; name a part of it, or fill it")
        return value

    if not isinstance(template, str):
        return values
    if single := next((name for name in _SINGLE.findall(template) if name in doc), None):
        raise LensflowError(f"{where} has '{{{single}}}' in single braces, which is no column; write {{{{{single}}}}}")
    if template in doc:
        shown(doc[template])
    else:
        import lm_eval.utils

        strict = SandboxedEnvironment(undefined=lm_eval.utils.env.undefined, finalize=shown)
        strict.filters.update(lm_eval.utils.env.filters)
        strict.from_string(template).render(**doc)
    return values


def _choosing(task: type[Any]) -> type[Any]:
    """Return lm-eval's task. Its right answer may also be a letter, and must be one of the choices."""

    class Choosing(task):  # type: ignore[misc]
        def doc_to_target(self, doc: Any, doc_to_target: Any = None) -> Any:
            target = super().doc_to_target(doc, doc_to_target)
            own = doc_to_target is None or doc_to_target == self.config.doc_to_target
            if self.config.doc_to_choice is None or not own:
                return target
            text = self.doc_to_text(doc)
            if isinstance(text, int):  # the choices are contexts: this is which of them, the target what follows them
                place_of(text, self.doc_to_choice(doc))
                return target
            return place_of(target, self.doc_to_choice(doc))

        def doc_to_choice(self, doc: Any, doc_to_choice: Any = None) -> Any:
            choices = super().doc_to_choice(doc, doc_to_choice)
            if isinstance(choices, str):
                raise NoChoiceError(f"its choices are one text, {choices!r:.60}, not a list")
            if isinstance(choices, Mapping):
                raise NoChoiceError(f"its choices are a dictionary of {', '.join(choices)}, not a list")
            if any(choice is None or not str(choice).strip() for choice in choices):
                raise NoChoiceError("a choice is empty")
            if odd := [choice for choice in choices if not isinstance(choice, str)]:
                raise NoChoiceError(f"its choice {odd[0]!r:.60} is not text")
            if len(choices) == 1:
                raise NoChoiceError("it has a single choice, which is always right")
            return choices

        def spelling(self, doc: Any) -> str | None:
            """The form of a right answer that is a letter or a number, not the text of a choice."""
            if self.config.doc_to_choice is None:
                return None
            target = super().doc_to_target(doc)
            if not isinstance(target, str | int | float):
                return None
            if folded(str(target)) in [folded(str(choice)) for choice in self.doc_to_choice(doc)]:
                return None
            return _NUMBER if str(target).removesuffix(".0").strip(" ().:").isdecimal() else _LETTER

    return Choosing


def _cause(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__} {text}"[:200].strip()
