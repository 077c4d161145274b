"""Self-distillation from resource-rich languages (SDRRL: Zhang et al., 2024, arXiv 2402.12204).

The backbone learns from its own answers in the central language c, and from translations. For the i-th item, x_c and
x_t are the prompts in c and in a target language t; a_c is the backbone's own answer to x_c; y_t is the answer in t.
Training lowers the mean of -log p(token) over the answers' tokens of these pairs (prompt → answer):

    own          x_c → a_c
    target       x_t → y_t
    cross        x_t, "Answer in {c}." → a_c    and    x_c, "Answer in {t}." → y_t
    translation  "Translate this question from {c} into {t}: x_c" → x_t
    completion   "Complete this text in {t}: first half of y_t" → the rest of y_t

If an own answer reached its limit, its end is not learnt. Empty own answers are left out.

Four things differ from the paper. First, the paper's y_t is a machine translation of a_c. Here, y_t is the corpus's own
answer, because no translator is part of the pipeline. To follow the paper, put translations of the backbone's answers
into the corpus. Second, the paper's code-switched pairs need dictionaries; we leave them out. Third, the instructions
above are ours. Without them, two answers to the same prompt would contradict each other. Fourth, we know the paper from
its abstract and from summaries, and the authors' code was not available, so the defaults are not the authors'. All
parts count alike, answers are greedy and have 256 tokens at most (ours), and the rest is as in `sft` (Alpaca, QLoRA).
The method is told no language.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from lensflow.languages import english_name
from lensflow.methods.base import FineTuning, Run, Trained
from lensflow.methods.qalign import instruction
from lensflow.methods.sft import check_answers
from lensflow.schema.decoding import Decoding
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count

Part = Literal["own", "target", "cross", "translation", "completion"]
OF_OWN_ANSWERS, OF_ANSWERS = {"own", "cross"}, {"target", "cross", "completion"}
AT_A_TIME = 64  # prompts that are answered together, after which the answers are kept


class OwnAnswers(Decoding):
    """How the backbone answers the prompts of the central language."""

    max_new_tokens: Count = 256
    """Longest own answer in tokens."""


class Sdrrl(FineTuning):
    """Fine-tuning on the backbone's own answers in the central language, and on translations."""

    kind: Literal["sdrrl"]
    parts: Annotated[tuple[Part, ...], Field(min_length=1, strict=False)] = (
        "own",
        "target",
        "cross",
        "translation",
        "completion",
    )
    """The parts to train on: `own` answers in the central language; the corpus's answers in the `target` languages;
    prompts and answers in different languages (`cross`); `translation` of prompts; `completion` of answers."""
    answers: OwnAnswers = OwnAnswers()
    """How the backbone answers the prompts of the central language, before it is trained."""

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that the corpus has as many examples as the method asks for, and answers if a part learns from them."""
        for language in setting.targets:
            answered = OF_ANSWERS & set(self.parts)
            super().check_items(check_answers(self.kind, items, setting, language) if answered else items, setting)


Config = Sdrrl


class Own(NamedTuple):
    """An answer of the backbone, and whether it ended by itself."""

    text: str
    ended: bool


class Pair(NamedTuple):
    """A prompt, the answer that is learnt, and whether the end of the answer is learnt as well."""

    prompt: str
    answer: str
    ended: bool = True


def pairs(part: Part, central: str, language: str, x_c: str, x_t: str, y_t: str, own: Own | None) -> Iterator[Pair]:
    """Yield the pairs of one item, target language and part other than `own`.

    Args:
        part: the part that is learnt.
        central: code of the central language.
        language: code of the target language.
        x_c: prompt in the central language.
        x_t: prompt in the target language.
        y_t: answer in the target language.
        own: the backbone's answer to `x_c`; None if it was empty.
    """
    match part:
        case "target":
            yield Pair(x_t, y_t)
        case "cross":
            if own is not None:
                yield Pair(f"{x_t}\nAnswer in {english_name(central)}.", *own)
            yield Pair(f"{x_c}\nAnswer in {english_name(language)}.", y_t)
        case "translation":
            yield Pair(instruction(english_name(central), english_name(language), x_c), x_t)
        case "completion":
            first, rest = halves(y_t)
            yield Pair(f"Complete this text in {english_name(language)}: {first}", rest)


def halves(text: str) -> tuple[str, str]:
    """Split a text at the last space of its first half, or in the middle if there is no such space."""
    middle = len(text) // 2
    place = text.rfind(" ", 0, middle + 1)
    first = text[: place if place > 0 else middle]
    return first, text[len(first) :].strip()


def train(run: Run[Sdrrl]) -> Trained:
    """Generate the backbone's own answers, then train on all parts. The dev loss covers the answers in the targets.

    Own answers are kept beside the output until training ends, so that a killed job does not lose them.

    Raises:
        LensflowError: the backbone gives no answer at all; for other errors see `finetuning.fine_tune`.
    """
    from dataclasses import replace

    from lensflow.methods import finetuning
    from lensflow.storage.atomic import scratch_folder
    from lensflow.storage.digests import file_digest

    tokenizer, central, method = finetuning.tokenizer_of(run), run.setting.central, run.method
    key = "answer" if OF_ANSWERS & set(method.parts) else "prompt"
    items = [
        (language, *rows)
        for language in run.setting.targets
        for rows in finetuning.pairs_of(run, language, "train", key)
    ]
    asked: Counter[str] = Counter()  # how often each item is trained on; more than once if the items are resampled
    for language in run.setting.targets:
        asked |= Counter(x["id"] for other, x, _ in items if other == language)
    prompts = {x["id"]: x["prompt"] for _, x, _ in items} if OF_OWN_ANSWERS & set(method.parts) else {}

    def example(name: str, pair: Pair) -> finetuning.Example:
        made = finetuning.answered(tokenizer, name, pair.prompt, pair.answer)
        end = None if pair.ended else -1
        return replace(made, ids=made.ids[:end], counted=made.counted[:end])

    made_with = [file_digest(run.backbone), run.prompt.canonical(), method.answers.canonical(), method.precision]
    with scratch_folder(run.output, [made_with, prompts]) as folder:
        answers, earlier = own_answers(run, prompts, folder)
        own = not_empty(answers, run)
        examples = []
        if "own" in method.parts:
            examples += [
                example(f"{central} {name}", Pair(prompts[name], *own[name]))
                for name in asked.elements()
                if name in own
            ]
        for part in method.parts:
            for language, x, y in items:
                texts = (x["prompt"], y["prompt"], y.get("answer", ""))
                for pair in pairs(part, central, language, *texts, own.get(x["id"])):
                    examples.append(example(f"{language} {y['id']} {part}", pair))
        dev = [
            finetuning.answered(tokenizer, f"{language} {row['id']}", row["prompt"], row["answer"])
            for language in run.setting.targets
            for row in finetuning.rows_of(run, language, "dev", "answer")
        ]
        return replace(finetuning.fine_tune(run, examples, dev), earlier_seconds=earlier)


def own_answers(run: Run[Sdrrl], prompts: Mapping[str, str], folder: Path) -> tuple[dict[str, Own], float]:
    """Generate the backbone's answers to prompts with transformers.

    Args:
        run: the training.
        prompts: id -> prompt in the central language.
        folder: the folder that keeps the answers of each `AT_A_TIME` prompts.

    Returns:
        The answers by id, and the seconds that earlier, interrupted runs spent on them.

    Raises:
        LensflowError: a prompt and its answer are longer than the model's positions.
    """
    import time

    from tqdm import tqdm

    from lensflow.methods import finetuning
    from lensflow.models import thinking
    from lensflow.models.engines.hf import TransformersEngine
    from lensflow.models.loading import device_of
    from lensflow.storage.cache import read_entry, write_entry

    method, tokenizer, device = run.method, finetuning.tokenizer_of(run), device_of(run.gpus)
    names, answers, earlier = list(prompts), dict[str, Own](), 0.0
    engine: TransformersEngine | None = None
    with tqdm(total=len(names), desc="own answers", unit="prompt", mininterval=1, disable=not names) as progress:
        for start in range(0, len(names), AT_A_TIME):
            chunk, part = names[start : start + AT_A_TIME], folder / f"{start}.json"
            if (kept := read_entry(part)) is None:
                started = time.monotonic()
                if engine is None:
                    engine = TransformersEngine(run.backbone.parent, method.precision, tokenizer, device.type)
                encoded = [tokenizer.encode(prompts[name]) for name in chunk]
                said = [
                    (thinking.split(tokenizer, ids, one.ids, one.text, method.answers.stop)[1].strip(), not one.cut)
                    for ids, one in zip(encoded, engine.generate(encoded, method.answers), strict=True)
                ]
                write_entry(part, {"said": said, "seconds": time.monotonic() - started})
            else:
                said, earlier = kept["said"], earlier + kept["seconds"]
            answers |= {name: Own(*one) for name, one in zip(chunk, said, strict=True)}
            progress.update(len(chunk))
    if engine is not None:
        engine.close()
    return answers, earlier


def not_empty(answers: Mapping[str, Own], run: Run[Sdrrl]) -> dict[str, Own]:
    """Return the answers that are not empty; the log counts the empty ones.

    Raises:
        LensflowError: all answers are empty.
    """
    import logging

    from lensflow.errors import LensflowError

    found = {name: own for name, own in answers.items() if own.text}
    if len(found) < len(answers):
        empty = f"{len(answers) - len(found)} of {len(answers)} prompts in '{run.setting.central}'"
        if not found:
            raise LensflowError(f"{run.backbone.parent}: empty answers to {empty}; drop the parts own and cross")
        logging.getLogger(__name__).warning("empty answers to %s are left out", empty)
    return found
