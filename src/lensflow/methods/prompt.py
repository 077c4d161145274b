"""The model is asked to answer in a language: by an instruction, a frame in that language, or native examples.

An instruction is a line of what the user says: of every message in benchmarks that generate (`generation`,
`dataset_generation`, `mt_bench`), of the last message, the question, in `lm_eval` tasks with `chat: true`. A frame is
a plain template in the language of the answer ("Question:" and "Answer:" translated) in the place of the backbone's
own; chat templates have no such words, so they are refused. Native examples are the first questions and answers of the
training corpus in the language of the answer; the model reads them as earlier turns. Only `generation` and
`dataset_generation` use frames and examples.

All of this stands with prompts of the target languages only: the central language is left alone. Tasks without chat,
whose text is lm-eval's own, and held-out likelihood do not see it. The method is told the language of the answer.

Sources: the Language Confusion Benchmark (arXiv 2406.20052) gives examples, ReCoVeR's (arXiv 2509.14814) are in the
language of the answer, as here. The default instruction, "Answer in {language_name}." before the prompt, is ours.
Nothing is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, field_validator

from lensflow.methods.base import Method, Run, Trained
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count, Language

SLOT = "{language_name}"


class Prompt(Method):
    """An instruction to answer in the language of the prompt, a frame or examples in it, in the target languages."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["prompt"]
    instruction: str | dict[Language, str] | None = f"Answer in {SLOT}."
    """A template that names the language in English, or language -> its own text; null: none."""
    place: Literal["before", "after"] = "before"
    """Whether the instruction stands `before` or `after` the prompt, on a line of its own."""
    frame: dict[Language, Annotated[str, AfterValidator(PlainPrompt._has_slot)]] | None = None
    """Language -> the frame of its prompts, instead of the backbone's."""
    examples: Count | None = None
    """Number of native question-answer pairs of the train split that stand before the prompt."""

    @field_validator("instruction")
    @classmethod
    def _names_the_language(cls, value: Any) -> Any:
        if isinstance(value, str) and SLOT not in value:
            raise ValueError(f"must contain {SLOT}, or be a mapping from each target language to its own text")
        return value

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that every target has an instruction and a frame."""
        for name, setting in settings.items():
            for key, texts in (("instruction", self.instruction), ("frame", self.frame)):
                if isinstance(texts, dict) and (missing := set(setting.targets) - set(texts)):
                    raise ValueError(f"{key}: no text for {sorted(missing)[0]} of setting {name}; add it")

    def check_items(self, items: Sequence[Mapping[str, Any]], setting: Setting) -> None:
        """Check that there are as many examples as asked for."""
        for language in setting.targets if self.examples else ():
            there = sum(language in item.get("answer", {}) for item in items)
            if self.examples is not None and self.examples > there:
                raise ValueError(
                    f"examples: {self.examples} is more than the {there} items with answers in '{language}' of corpus "
                    f"'{setting.training}'; lower it"
                )


Config = Prompt


def train(run: Run[Prompt]) -> Trained:
    """Write what each target language is prompted with.

    Raises:
        LensflowError: there is a frame, and the backbone's prompts are in a chat template.
    """
    from lensflow.artifacts import deltas, interventions
    from lensflow.artifacts.texts import read_texts
    from lensflow.errors import LensflowError
    from lensflow.languages import english_name
    from lensflow.storage.journal import used

    method, targets = run.method, run.setting.targets
    if method.frame is not None and run.prompt.format == "chat":
        raise LensflowError("frame: the backbone has a chat template, which no frame can replace; drop the key")
    wanted, instructions, shots = method.instruction, {}, {}
    if isinstance(wanted, dict):
        instructions = {language: wanted[language] for language in targets}
    elif wanted is not None:
        instructions = {language: wanted.replace(SLOT, english_name(language)) for language in targets}
    for language in targets if method.examples else ():
        answered = [text for text in read_texts(run.texts[language], ["train"]) if text.answer is not None]
        answered = answered[: method.examples]
        used(run.texts[language], [text.line for text in answered])
        shots[language] = [(text.prompt, text.answer or "") for text in answered]
    frames = {language: method.frame[language] for language in targets} if method.frame is not None else {}
    interventions.write(
        interventions.Intervention(instructions=instructions, place=method.place, frames=frames, shots=shots),
        run.output,
    )
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
