"""The checks of `lensflow check` on prompts and texts that are too long for a backbone, or that it cannot read."""

import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lensflow.artifacts.checkpoint import positions
from lensflow.benchmarks.base import Counted, Folders, FromDataset, Items, Said
from lensflow.errors import LensflowError
from lensflow.models.engines import registry
from lensflow.schema.decoding import Decoding
from lensflow.storage.atomic import write_jsonl
from lensflow.workflow.inputs import Data
from lensflow.workflow.plan import Plan

_SAMPLE = 100  # texts of a language whose letters are counted
_ROOM = 300  # tokens that a cell may take beside its items: an answer, the words of a template


def check_lengths(plan: Plan, data: Data, folders: Mapping[str, Path]) -> Iterator[str]:
    """Check that the prompts of benchmarks fit into the backbones, and count what is lost of texts before training.

    A prompt is tokenised only if it has enough bytes to be too long.

    Args:
        plan: the plan, which says what is asked.
        data: the data on this machine; other data is not checked.
        folders: backbone -> a folder with its tokenizer and config.json.

    Raises:
        LensflowError: a prompt and its answer are longer than what a backbone, or `evaluation.max_model_len`, allows;
            or a backbone's tokenizer does not know the letters of a language.
    """
    with tempfile.TemporaryDirectory() as temporary:
        for corpus, by_language in data.texts.items():
            for language, rows in by_language.items() if folders else ():
                write_jsonl(Path(temporary, corpus, f"{language}.jsonl"), rows)
        for backbone, folder in folders.items():
            asker = _Measuring(plan, backbone, folder)
            for name, language in _cells(plan, backbone):
                if (found := _items(plan, data, Path(temporary), name, language)) is not None:
                    _check_cell(plan, asker, name, language, *found)
            yield from _lost(plan, data, backbone, folder)
            yield from _cut(plan, data, backbone, folder)


def _cells(plan: Plan, backbone: str) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys(
            (name, language)
            for place, cells in plan.checkpoints.items()
            if place.backbone == backbone
            for name, languages in cells.items()
            for language in languages
        )
    )


def _items(plan: Plan, data: Data, corpora: Path, name: str, language: str) -> tuple[Items, Items] | None:
    """Return the items of a cell, and its examples; None if they are not on this machine."""
    from lensflow.stages.answer import chosen

    benchmark = plan.config.benchmarks[name]
    if isinstance(benchmark, FromDataset):
        found = data.items.get((name, language))
        return None if found is None else (chosen(found[0], plan.config.evaluation), found[1])
    if any(code not in data.texts.get(c, {}) for c in benchmark.corpora for code in benchmark.reads(language)):
        return None
    items = benchmark.items(Folders(corpora, corpora), name, language)
    return chosen(items, plan.config.evaluation), {}


def _check_cell(plan: Plan, asker: "_Measuring", name: str, language: str, items: Items, examples: Items) -> None:
    benchmark = plan.config.benchmarks[name]
    settings = benchmark.narrowed([language])
    shots = benchmark.shots(language, plan.task_roots)
    longest, example = (
        max((len(json.dumps(item, ensure_ascii=False, default=str).encode()) for item in of.values()), default=0)
        for of in (items, examples)
    )
    most = (
        longest + shots * example + len(json.dumps(settings, default=str)) + _ROOM + settings.get("max_new_tokens", 0)
    )
    if most <= asker.least:
        return
    asker.place = f"benchmarks.{name}, {language}"
    benchmark.ask(asker, items, examples, language, plan.task_roots)


def _lost(plan: Plan, data: Data, backbone: str, folder: Path) -> Iterator[str]:
    """Say which share of the letters of each language a backbone's tokenizer loses, because it knows only some scripts.

    Raises:
        LensflowError: the tokenizer loses half of the letters of a language.
    """
    from lensflow.models.tokenizer import PromptTokenizer

    tokenizer = PromptTokenizer(folder, plan.config.backbones[backbone].prompt)
    for corpus, language in _read_by(plan, backbone):
        if language not in data.texts.get(corpus, {}):
            continue
        texts = [str(row["prompt"]) for row in data.texts[corpus][language][:_SAMPLE]]
        read = [tokenizer.decode(tokenizer.ids_of(tokenizer.literal(text), False)) for text in texts]
        letters = _letters("".join(texts))
        lost = (letters - _letters("".join(read))).total() / max(letters.total(), 1)
        said = (
            f"the tokenizer of backbone {backbone} loses {lost:.0%} of the letters in '{language}'; give a backbone "
            "that knows this language, or the tokenizer of the model"
        )
        if lost > 0.5:
            raise LensflowError(f"corpora.{corpus}: {said}")
        if lost > 0.01:
            yield f"corpora.{corpus}: {said}"


def _read_by(plan: Plan, backbone: str) -> list[tuple[str, str]]:
    """The corpora that a backbone reads, each with a language."""
    settings = dict.fromkeys(place.setting for place in plan.trained(backbone))
    trained = [
        (plan.corpus(name, use), language)
        for name in settings
        for use in ("probing", "training")
        for language in plan.config.settings[name].languages
    ]
    asked = [
        (corpus, code)
        for name, language in _cells(plan, backbone)
        for corpus in plan.config.benchmarks[name].corpora
        for code in plan.config.benchmarks[name].reads(language)
    ]
    return list(dict.fromkeys([*trained, *asked]))


def _letters(text: str) -> Counter[str]:
    return Counter(filter(str.isalpha, unicodedata.normalize("NFKC", text).casefold()))  # as many tokenizers do


def _cut(plan: Plan, data: Data, backbone: str, folder: Path) -> Iterator[str]:
    """Count the texts of a backbone's settings that are cut before their states are computed."""
    from lensflow.models.tokenizer import PromptTokenizer

    settings = {place.setting for place in plan.trained(backbone) if plan.needs_states(place.method)}
    used = {corpus for name in settings for corpus in (plan.corpus(name, "probing"), plan.corpus(name, "training"))}
    for corpus in sorted(used & data.texts.keys()):
        stage = plan.extract_hidden_states(backbone, corpus)
        entry = plan.config.backbones[backbone]
        tokenizer = PromptTokenizer(folder, entry.prompts.get(corpus, entry.prompt))
        most, frame = stage["extraction"]["max_tokens"], len(tokenizer.encode(""))
        for language, rows in data.texts[corpus].items():
            texts = [str(row["prompt"]) for row in rows if row["split"] != "test"]
            long = [text for text in texts if len(text.encode()) + frame > most]
            if count := sum(len(tokenizer.encode(text)) > most for text in long):
                side = "beginning" if stage["extraction"]["truncation_side"] == "left" else "end"
                yield (
                    f"corpora.{corpus}: {count} of {len(texts)} texts in '{language}' have more than {most} tokens for "
                    f"backbone {backbone} and lose their {side}; raise max_tokens if that matters"
                )


class _Measuring:
    """Measures the requests of a benchmark and answers nothing; an `Asker` that needs no engine.

    Args:
        plan: the plan, which says what is asked.
        backbone: the backbone.
        folder: folder with the backbone's tokenizer and config.json.

    Attributes:
        least: number of tokens that fit into each engine.
        place: the beginning of a message.
    """

    def __init__(self, plan: Plan, backbone: str, folder: Path) -> None:
        from lensflow.models.tokenizer import PromptTokenizer

        self._backbone, self._evaluation = backbone, plan.config.evaluation
        self._positions = positions(folder)
        self.tokenizer = self.prompting = PromptTokenizer(folder, plan.config.backbones[backbone].prompt)
        self.least = min(self._limit(role)[0] for role in (registry.generator, registry.scorer, registry.reader))
        self.place = ""

    def _limit(self, role: Any) -> tuple[float, str]:
        """Return the number of tokens that fit into an engine, and the reason for it."""
        found = float("inf") if self._positions is None else self._positions
        reserved = self._evaluation.max_model_len
        if role(self._evaluation.engine) == registry.FAST and reserved < found:
            return reserved, f"evaluation.max_model_len ({reserved}); raise it"
        advice = "shorten the items, lower max_new_tokens or give fewer examples"
        return found, f"the {found:.0f} positions of backbone {self._backbone}; {advice}"

    def _check(self, role: Any, longest: int) -> None:
        limit, said = self._limit(role)
        if longest > limit:
            raise LensflowError(f"{self.place}: a prompt and its answer of {longest} tokens exceed {said}")

    def instruct(self, prompt: str) -> str:
        """Return the prompt unchanged. A method may make it longer; the method's own stage then checks it."""
        return prompt

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> Sequence[Said]:
        """Measure prompts together with their longest answers."""
        from lensflow.models.engines.protocol import Answer

        self._check(registry.generator, max(map(len, prompts), default=0) + decoding.max_new_tokens)
        return [Answer("", (), cut=False)] * len(prompts)

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Measure contexts with their continuations."""
        self._check(registry.scorer, max((len(context) + len(last) for context, last in requests), default=0))
        return [(0.0, False)] * len(requests)

    def read(self, sequences: list[list[int]], counted: list[list[bool]]) -> list[dict[str, float]]:
        """Measure prompts."""
        self._check(registry.reader, max(map(len, sequences), default=0))
        return [{}] * len(sequences)

    def drift(self, plain: Counted, own: Counted) -> list[dict[str, float]]:
        """Measure sequences."""
        self._check(registry.reader, max((len(ids) for ids, _ in (*plain, *own)), default=0))
        return [{}] * len(own)
