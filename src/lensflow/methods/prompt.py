"""The model is asked to answer in a language, by an instruction with the prompt; nothing is trained.

Instructions stand with prompts of the target languages only: the central language is left alone. They are part of what
the user says: of every message in benchmarks that generate (`generation`, `dataset_generation`, `mt_bench`), of the
last message, the question, in `lm_eval` tasks with `chat: true`. Tasks without chat, whose text is lm-eval's own, and
held-out likelihood do not see them.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from lensflow.methods.base import Method, Run, Trained
from lensflow.schema.extraction import Extraction
from lensflow.schema.setting import Setting
from lensflow.schema.types import Language

SLOT = "{language_name}"


class Prompt(Method):
    """An instruction to answer in the language of the prompt, in the target languages."""

    seeded: ClassVar[bool] = False
    told_language: ClassVar[bool] = True

    kind: Literal["prompt"]
    instruction: str | dict[Language, str] = f"Answer in {SLOT}."
    """A template that names the language in English, or language -> its own text."""
    place: Literal["before", "after"] = "before"
    """Whether the instruction stands `before` or `after` the prompt, on a line of its own."""

    @field_validator("instruction")
    @classmethod
    def _names_the_language(cls, value: Any) -> Any:
        if isinstance(value, str) and SLOT not in value:
            raise ValueError(f"must contain {SLOT}, or be a mapping from each target language to its own text")
        return value

    def check(self, extraction: Extraction, settings: Mapping[str, Setting]) -> None:
        """Check that every target has an instruction."""
        for name, setting in settings.items():
            if isinstance(self.instruction, dict) and (missing := set(setting.targets) - set(self.instruction)):
                raise ValueError(f"instruction: no text for {sorted(missing)[0]} of setting {name}; add it")


Config = Prompt


def train(run: Run[Prompt]) -> Trained:
    """Write the instruction of each target language."""
    from lensflow.artifacts import deltas, interventions
    from lensflow.languages import english_name

    wanted = run.method.instruction
    instructions = {
        language: wanted.replace(SLOT, english_name(language)) if isinstance(wanted, str) else wanted[language]
        for language in run.setting.targets
    }
    interventions.write(interventions.Intervention(instructions=instructions, place=run.method.place), run.output)
    deltas.write({}, run.backbone.parent, run.output)
    return Trained(tokens=0, parameters=0)
