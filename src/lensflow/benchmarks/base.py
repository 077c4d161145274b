"""What all benchmarks share: where their items come from, how a model is asked, what is read off its answers.

A kind of benchmark has two halves. `ask` needs a model: it turns items into requests and returns one row per answer,
and these rows are stored. `samples` needs none: it turns stored rows into what a reader sees of each item. The metrics
of the catalogue (`lensflow.measures.catalogue`) are computed from these samples.
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
        """The answer."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Its token ids."""

    @property
    def cut(self) -> bool:
        """Whether its room was used up."""


class Asker(Protocol):
    """A checkpoint that answers in one language, as a method has it answer."""

    @property
    def tokenizer(self) -> Any:
        """The `lensflow.models.tokenizer.PromptTokenizer` of the backbone."""

    @property
    def prompting(self) -> Any:
        """The tokenizer that renders prompts as the method has them: in its frame, and behind its examples."""

    def instruct(self, prompt: str) -> str:
        """Return what the user says: the prompt, with an instruction where the method gives one."""

    def generate(self, prompts: list[list[int]], decoding: Decoding) -> Sequence[Said]:
        """Continue prompts of token ids."""

    def loglikelihoods(self, requests: list[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Score pairs of context and continuation."""

    def read(self, sequences: list[list[int]], counted: list[list[bool]]) -> list[dict[str, float]]:
        """Score whole prompts and the scripts of the first answer token."""

    def drift(self, plain: Counted, own: Counted) -> list[dict[str, float]]:
        """Compare the backbone on plain sequences with the checkpoint on its own, at the tokens that count.

        Returns:
            For each sequence `kl`, KL(backbone ‖ checkpoint) of the next token in nats, summed over its `tokens`.
        """


@dataclass(frozen=True)
class Folders:
    """Where the items of benchmarks lie.

    Attributes:
        corpora: folder of what `pair_data` wrote, `{corpus}/{language}.jsonl`.
        items: folder of what `fetch_items` wrote, `{benchmark}/{language}.jsonl`.
        tasks: folders that task files of one's own are named from, in the order in which they are searched.
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
        """The corpora that its prompts come from."""
        return ()

    def reads(self, language: str) -> tuple[str, ...]:
        """Return the languages of the corpora that it reads for a cell in a language."""
        return (language,)

    def prompted_in(self, language: str) -> str:
        """Return the language of the prompts in a cell whose answers should be in a language."""
        return language

    def sources(self) -> Mapping[str, LanguageEntry] | None:
        """Return what it has of each language of a data set; None if its items come from a corpus."""
        return None

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return its configuration, as far as answers and scores in these languages depend on it."""
        return self.canonical()

    def code_of(self, language: str, roots: Sequence[Path]) -> str | None:
        """Return the digest of files of one's own that it runs in a language; None if there are none."""
        return None

    def check_texts(self, splits: Splits, languages: Sequence[str]) -> None:
        """Check before anything runs that the items of its corpus fit.

        Args:
            splits: of its corpus; items of a data set that is not fetched yet have empty texts.
            languages: that it is asked in.

        Raises:
            ValueError: they do not; the message begins with the benchmark's key that is to blame.
        """

    def check(self, language: str, roots: Sequence[Path]) -> None:
        """Check what can be checked of a language before its items are there.

        Raises:
            LensflowError: begins with the key that is wrong.
        """

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read the items of a language.

        Args:
            folders: where they lie.
            name: of the benchmark.
            language: their code.
            split: `items`, or `fewshot` for those that examples are taken from.
        """
        raise NotImplementedError

    def check_items(self, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> None:
        """Check the items of a language before a model is asked.

        Raises:
            LensflowError: the items do not fit.
        """

    def ask(self, asker: Asker, items: Items, fewshot: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Ask a model; return what it said, one row per request, in the order of the items.

        Raises:
            LensflowError: the items do not fit.
        """
        raise NotImplementedError

    def samples(self, rows: Sequence[Row], items: Items, language: str, roots: Sequence[Path]) -> list[Row]:
        """Return what a reader sees of each item, with values under the names of metrics where the kind has its own.

        Args:
            rows: what `ask` returned.
            items: the same items.
            language: of the items.
            roots: folders of task files.
        """
        return [{"id": id_, **row} for id_, row in zip(items, rows, strict=True)]

    def references(self, folders: Folders, language: str) -> Mapping[str, str]:
        """Return the reference answers that it has, by id, for the controls that are shown beside the methods."""
        return {}

    def unit_of(self, id_: str) -> str:
        """Return what an item counts as in statistics: itself, or a group of items that depend on one another."""
        return id_

    def shots(self, language: str, roots: Sequence[Path]) -> int:
        """Return how many examples stand before an item."""
        return 0

    def own_metrics(self) -> tuple[str, ...]:
        """Return the metrics whose values its samples have already."""
        return ()


class FromCorpus(Benchmark):
    """A benchmark on held-out prompts of a corpus."""

    corpus: Name = "embedded"
    """Corpus that the prompts come from."""
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
            LensflowError: an item has none.
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
    """Language -> the data set's name for it (`ja: jp`), or what else is particular to it."""

    def texts(self) -> tuple[str, ...]:
        """Return the columns that a model is asked the text of."""
        return ()

    @field_validator("languages", mode="before", json_schema_input_type=dict[Language, str | LanguageEntry])
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: {"config": entry} if isinstance(entry, str) else entry for key, entry in value.items()}
        return value

    def sources(self) -> Mapping[str, LanguageEntry]:
        """Return its languages."""
        return self.languages

    def narrowed(self, languages: Sequence[str]) -> dict[str, Any]:
        """Return its configuration with these languages alone."""
        content = self.canonical()
        return content | {"languages": {language: content["languages"][language] for language in languages}}

    def items(self, folders: Folders, name: str, language: str, split: str = "items") -> Items:
        """Read the items of the data set."""
        return read_items(folders.items / name / f"{language}.jsonl", split)


def generated(asker: Asker, prompts: Mapping[str, str], decoding: Decoding) -> list[Row]:
    """Have prompts answered; return rows of `prompt` and of what `said` returns."""
    encoded = [asker.prompting.encode(asker.instruct(prompt)) for prompt in prompts.values()]
    answers = said(asker, encoded, decoding)
    return [{"prompt": prompt, **answer} for prompt, answer in zip(prompts.values(), answers, strict=True)]


def said(asker: Asker, prompts: list[list[int]], decoding: Decoding) -> list[Row]:
    """Have prompts of token ids continued; return what was said to the user apart from what was thought before.

    Returns:
        Rows of `answer`, `tokens` (all ids) and `cut`; with `thought` if the model thought first.
    """
    rows = []
    for prompt, found in zip(prompts, asker.generate(prompts, decoding), strict=True):
        thought, answer = split(asker.tokenizer, prompt, found.ids, found.text, decoding.stop)
        row = {"answer": answer, "tokens": list(found.ids), "cut": found.cut}
        rows.append(row | ({"thought": thought} if thought else {}))
    return rows
