"""Asks the model to answer in a language: by an instruction, a frame in that language, or native examples.

An instruction is one line of the user's text. Benchmarks that generate (`generation`, `dataset_generation`, `mt_bench`)
get the instruction in every user message. `lm_eval` tasks with `chat: true` get it in the last message, the question. A
frame is a plain template in the language of the answer (with "Question:" and "Answer:" translated). It replaces the
backbone's own template; a chat template has no such words, so a frame is then refused. Native examples are the first
questions and answers of the training corpus in the language of the answer. The model reads them as earlier turns. Only
`generation` and `dataset_generation` use frames and examples.

The method changes only prompts of the target languages, not of the central language. It does not change tasks without
chat, whose text is lm-eval's own, and it does not change the likelihood of held-out prompts. The method is told the
language of the answer.

Sources: the Language Confusion Benchmark (arXiv 2406.20052) gives examples. The examples of ReCoVeR (arXiv 2509.14814)
are in the language of the answer, as here. The default instruction, "Answer in {language_name}." before the prompt, is
ours. Nothing is trained.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, field_validator

from lensflow.methods.base import Method, Run, Trained
from lensflow.schema.backbone import PlainPrompt
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.types import Count, Language, PromptText

SLOT = "{language_name}"


class Prompt(Method):
    """Adds an instruction, a frame or examples, so that the model answers in the prompt's language; only for
    targets."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["prompt"]
    instruction: PromptText | dict[Language, PromptText] | None = f"Answer in {SLOT}."
    """The instruction: one template that names the language in English, or a text per language; null gives none."""
    place: Literal["before", "after"] = "before"
    """Whether the instruction comes `before` or `after` the prompt, on its own line."""
    frame: dict[Language, Annotated[PromptText, AfterValidator(PlainPrompt._has_slot)]] | None = None
    """The frame of each language's prompts, which replaces the backbone's prompt format."""
    examples: Count | None = None
    """Number of native question-answer pairs from the train split that come before the prompt."""

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
        """Check that the corpus has as many examples as the method asks for."""
        for language in setting.targets if self.examples else ():
            there = sum(language in item.get("answer", {}) for item in items)
            if self.examples is not None and self.examples > there:
                raise ValueError(
                    f"examples: {self.examples} is more than the {there} items with answers in '{language}' of corpus "
                    f"'{setting.training}'; lower it"
                )


Config = Prompt


def train(run: Run[Prompt]) -> Trained:
    """Write the instruction, frame and examples of each target language.

    Raises:
        LensflowError: the method has a frame, but the backbone's prompts use a chat template.
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
