"""The section `backbones`: where weights come from, how they are prompted, what they need of the machine."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import MODEL_REVISION_PATTERN, SHA256_PATTERN, Count, PathBelow, Positive


class PackageSource(Strict):
    """Model weights in GGUF form that a Python package carries, perhaps in parts."""

    kind: Literal["package"]
    package: str  # the distribution to install when a part is missing
    parts: tuple[PathBelow, ...] = Field(min_length=1, strict=False)  # paths below site-packages, in order
    sha256: str = Field(pattern=SHA256_PATTERN)  # of the concatenated parts


class HubSource(Strict):
    """A model on the Hugging Face hub, pinned by a commit; `main` is resolved to one when the model is fetched."""

    kind: Literal["hub"]
    name: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=MODEL_REVISION_PATTERN)


class FolderSource(Strict):
    """A local folder with config.json, tokenizer.json and safetensors weights."""

    kind: Literal["folder"]
    path: str


class PlainPrompt(Strict):
    """A prompt for a model without a chat template."""

    format: Literal["plain"]
    template: str = "Question: {prompt}\nAnswer:"

    @field_validator("template")
    @classmethod
    def _has_slot(cls, value: str) -> str:
        if value.count("{prompt}") != 1:
            raise ValueError("must contain {prompt} exactly once")
        return value


# What a template is given of the conversation itself.
_TAKEN = {"messages", "add_generation_prompt", "continue_final_message", "tools", "documents", "strftime_now"}
_TAKEN |= {"chat_template", "conversations", "return_assistant_tokens_mask", "raise_exception"}


class ChatPrompt(Strict):
    """A prompt in the tokenizer's own chat template (paper: the backbones are chat models)."""

    format: Literal["chat"]
    system: str | None = None  # null: no system message; code: "" for training, "You are a helpful assistant." to probe
    # Variables that the template reads, such as enable_thinking: false; values are those of JSON.
    template_variables: dict[str, str | int | float | bool | None] = {}
    # What a template that prints today's date prints; this default is what Llama 3.2's template falls back to.
    date: Annotated[datetime.date, Field(strict=False)] = datetime.date(2024, 7, 26)

    @field_validator("template_variables")
    @classmethod
    def _own_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _TAKEN or name.endswith("_token"):
                raise ValueError(f"'{name}' is set by Lensflow; remove it")
        return value


Prompt = Annotated[PlainPrompt | ChatPrompt, Field(discriminator="format")]


class Resources(Strict):
    """What a backbone needs of the machine; never changes a result."""

    disk_gb: Positive | None = None  # of the checkpoint that prepare_backbone writes; checked against the free space
    gpus: Annotated[int, Field(ge=0)] = 0  # that evaluation shares the model's tensors over; other stages take one
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9  # share of a GPU's memory that vLLM takes
    answer_jobs: Count = 1  # how many jobs, perhaps on as many machines, the answering of checkpoints is spread over
    mem_gb: Positive | None = None  # main memory of a job that loads the model; null: what the demo's models need
    runtime: Count | None = None  # minutes of such a job on a cluster; null: an hour
    threads: Count | None = None  # of evaluation, and of training on all layers; null: all of Snakemake's --cores
    partition: str | None = None  # of SLURM, for such jobs; null: the cluster's own choice


class Source(Strict):
    """Where a backbone comes from and how it is prompted: everything of it that changes a result."""

    source: Annotated[PackageSource | HubSource | FolderSource, Field(discriminator="kind")]
    license: str
    prompt: Prompt


class Backbone(Source):
    """A model that is untouched so far."""

    resources: Resources = Resources()
