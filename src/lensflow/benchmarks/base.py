"""The base of all benchmarks: where the items come from, how a model is asked, and what its answers give.

A kind of benchmark has two halves. `ask` needs a model: it turns items into requests and returns one row per answer.
These rows are stored. `samples` needs no model: it turns stored rows into samples, which show what a reader sees of
each item. The metrics of the catalogue (`lensflow.measures.catalogue`) are computed from the samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from pydantic import Field, field_validator

from lensflow.artifacts.items import read_items
from lensflow.artifacts.texts import read_texts
from lensflow.errors import LensflowError
from lensflow.models.thinking import split
from lensflow.schema.dataset import Dataset, LanguageEntry
from lensflow.schema.decoding import Decoding
from lensflow.schema.strict import Strict
from lensflow.schema.types import Language, Name

Items = Mapping[str, Mapping[str, Any]]  # id -> item, in order
Row = dict[str, Any]
Splits = Mapping[str, Sequence[Mapping[str, Any]]]  # split -> lines of a corpus
Counted = Sequence[tuple[list[int], list[bool]]]  # token ids, and which of them count


class Said(Protocol):
    """An answer of an engine; see `lensflow.models.engines.protocol.Answer`."""

    @property
    def text(self) -> str:
        """The text of the answer."""

    @property
    def ids(self) -> tuple[int, ...]:
        """The token ids of the answer."""

    @property
    def cut(self) -> bool:
        """Whether the answer reached its limit."""


class Asker(Protocol):
    """A checkpoint that answers in one language, under a method."""

    @property
    def tokenizer(self) -> Any:
        """The `lensflow.models.tokenizer.PromptTokenizer` of the backbone."""

    @property
    def prompting(self) -> Any:
        """The tokenizer that renders prompts in the method's form: with its frame and its examples."""

    def instruct(self, prompt: str) -> str:
        """Return the user's text: the prompt, with an instruction if the method gives one."""

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> Sequence[Said]:
        """Continue prompts of token ids."""

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score pairs of context and continuation."""

    def read(self, sequences: list[list[int]], counted: list[list[bool]]) -> list[dict[str, float]]:
        """Score whole prompts and the scripts of the first answer token."""

    def drift(self, plain: Counted, own: Counted) -> list[dict[str, float]]:
        """Compare the backbone on plain sequences with the checkpoint on its own sequences, at the counted tokens.

        Returns:
            For each sequence `kl`, the KL(backbone ‖ checkpoint) of the next token in nats, summed over its `tokens`.
        """


@dataclass(frozen=True)
class Folders:
    """The folders that hold the items of benchmarks.

    Attributes:
        corpora: output folder of `pair_data`, `{corpus}/{language}.jsonl`.
        items: output folder of `fetch_items`, `{benchmark}/{language}.jsonl`.
        tasks: folders in which the user's own task files are searched, in this order.
    """

    corpora: Path
    items: Path
    tasks: tuple[Path, ...] = ()


class Benchmark(Strict):
    """A benchmark of any kind."""

    kind: str
    generates: ClassVar[bool] = False  # whether the language of its answers is identified
    judged: ClassVar[str] = ""  # how a judge grades its answers, a name in `measures.grading.PROTOCOLS`

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora from which its prompts come."""
        return ()

    def reads(self, language: str) -> tuple[str, ...]:
        """Return the languages of the corpora that a cell in one language needs."""
        return (language,)

    def prompted_in(self, language: str) -> str:
        """Return the language of the prompts for answers in a given language."""
        return language

    def sources(self) -> Mapping[str, LanguageEntry] | None:
        """Return the data set's settings of each language; None if the items come from a corpus."""
        return None

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return the part of the configuration on which answers and scores in these languages depend."""
        return self.canonical()

    def code_of(self, language: str, roots: Sequence[Path]) -> str | None:
        """Return the digest of the user's own files that run for a language; None if there are none."""
        return None

    def check_texts(self, splits: Splits, languages: Sequence[str]) -> None:
        """Check before anything runs that the items of the benchmark's corpus fit.

        Args:
            splits: the splits of the corpus. Items of a data set that is not fetched yet have empty texts.
            languages: the languages in which the benchmark is asked.

        Raises:
            ValueError: the items do not fit; the message begins with the key of the benchmark.
        """

    def check(self, language: str, roots: Sequence[Path]) -> None:
        """Check for a language what can be checked before its items are fetched.

        Raises:
            LensflowError: a key is wrong; the message begins with the key.
        """

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read the items of a language.

        Args:
            folders: the folders of the items.
            name: name of the benchmark.
            language: code of the language.
            split: `items`, or `fewshot` for the items from which examples are taken.
        """
        raise NotImplementedError

    def check_items(self, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> None:
        """Check the items of a language before a model is asked.

        Raises:
            LensflowError: the items do not fit.
        """

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Ask a model; return its answers, one row per request, in the order of the items.

        Raises:
            LensflowError: the items do not fit.
        """
        raise NotImplementedError

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return what a reader sees of each item. Values of metrics that the kind computes itself are included by name.

        Args:
            rows: the rows that `ask` returned.
            items: the same items.
            language: language of the items.
            roots: folders of task files.
        """
        return [{"id": id_, **row} for id_, row in zip(items, rows, strict=True)]

    def references(self, folders: Folders, language: str) -> Mapping[str, str]:
        """Return the reference answers by id, for the controls that are shown beside the methods."""
        return {}

    def unit_of(self, id_: str) -> str:
        """Return the unit of an item in statistics: the item itself, or a group of items that depend on each other."""
        return id_

    def shots(self, language: str, roots: Sequence[Path]) -> int:
        """Return how many examples stand before an item."""
        return 0

    def own_metrics(self) -> tuple[str, ...]:
        """Return the metrics whose values the samples already contain."""
        return ()


class FromCorpus(Benchmark):
    """A benchmark on held-out prompts of a corpus."""

    corpus: Name = "embedded"
    """Corpus from which the prompts come."""
    split: Literal["dev", "test"] = "test"
    """Split of the corpus: `dev` to choose hyperparameters, `test` to report."""

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpus."""
        return (self.corpus,)

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read the prompts of the split, as `{"prompt": ...}`; a corpus has no examples."""
        if split != "items":
            return {}
        texts = read_texts(folders.corpora / self.corpus / f"{language}.jsonl", [self.split])
        return {text.id: {"prompt": text.prompt} for text in texts}

    def check_texts(self, splits: Splits, languages: Sequence[str]) -> None:
        """Check that the split has items: a data set has as many as its corpus says."""
        if not splits[self.split]:
            other = next((name for name in ("test", "dev") if splits[name]), None)
            raise ValueError(
                f"split: corpus {self.corpus} has no items in '{self.split}'; raise corpora.{self.corpus}.dataset."
                f"{self.split}{f', or set split: {other}' if other else ''}"
            )


class FromAnswers(FromCorpus):
    """A benchmark on held-out prompts of a corpus with their reference answers."""

    def check_texts(self, splits: Splits, languages: Sequence[str]) -> None:
        """Check that the split has items, and every one of them an answer in each language."""
        super().check_texts(splits, languages)
        needed = dict.fromkeys(code for language in languages for code in self.reads(language))
        for item in splits[self.split]:
            if missing := [code for code in needed if code not in item.get("answer", {})]:
                raise ValueError(
                    f"corpus: an item of {self.corpus}, split {self.split}, has no answer in '{missing[0]}'; a "
                    f"benchmark of kind {self.kind} needs one to every prompt"
                )

    def answered(self, folders: Folders, language: str) -> dict[str, tuple[str, str]]:
        """Read the prompts of the split with their reference answers, by id.

        Raises:
            LensflowError: an item has no reference answer.
        """
        path = folders.corpora / self.corpus / f"{language}.jsonl"
        found = {}
        for text in read_texts(path, [self.split]):
            if not text.answer:
                raise LensflowError(f"{path}, line {text.line}: no answer; a benchmark of kind {self.kind} needs one")
            found[text.id] = (text.prompt, text.answer)
        return found


class FromDataset(Benchmark):
    """A benchmark whose items come from a data set, with a configuration per language."""

    dataset: Dataset
    """Where the items come from."""
    languages: dict[Language, LanguageEntry] = Field(min_length=1)
    """Language -> the data set's name for it (`ja: jp`), or other settings of this language."""

    def texts(self) -> tuple[str, ...]:
        """Return the columns whose text the model is asked with."""
        return ()

    @field_validator("languages", mode="before", json_schema_input_type=dict[Language, str | LanguageEntry])
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: {"config": entry} if isinstance(entry, str) else entry for key, entry in value.items()}
        return value

    def sources(self) -> Mapping[str, LanguageEntry]:
        """Return the languages of the benchmark."""
        return self.languages

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return the configuration with only these languages."""
        content = self.canonical()
        return content | {"languages": {language: content["languages"][language] for language in languages}}

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read the items of the data set."""
        return read_items(folders.items / name / f"{language}.jsonl", split)


def generated(asker: Asker, prompts: Mapping[str, str], decoding: Decoding) -> list[Row]:
    """Have prompts answered; return rows of `prompt` and of the result of `said`."""
    encoded = [asker.prompting.encode(asker.instruct(prompt)) for prompt in prompts.values()]
    answers = said(asker, encoded, decoding)
    return [{"prompt": prompt, **answer} for prompt, answer in zip(prompts.values(), answers, strict=True)]


def said(asker: Asker, prompts: list[list[int]], decoding: Decoding) -> list[Row]:
    """Continue prompts of token ids; return the text for the user, separated from the thought before it.

    Returns:
        Rows of `answer`, `tokens` (all ids) and `cut`; with `thought` if the model thought first.
    """
    rows = []
    for prompt, found in zip(prompts, asker.generate(prompts, decoding), strict=True):
        thought, answer = split(asker.tokenizer, prompt, found.ids, found.text, decoding.stop)
        row = {"answer": answer, "tokens": list(found.ids), "cut": found.cut}
        rows.append(row | ({"thought": thought} if thought else {}))
    return rows
