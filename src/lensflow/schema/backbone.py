"""The section `backbones`: where weights come from, how they are prompted, what they need of the machine."""

import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from lensflow.schema.strict import Strict
from lensflow.schema.types import (
    MODEL_REVISION_PATTERN,
    OWNED_NAME_PATTERN,
    SHA256_PATTERN,
    Count,
    Name,
    PathBelow,
    Positive,
)


class PackageSource(Strict):
    """Model weights in GGUF form that a Python package carries, perhaps in parts."""

    kind: Literal["package"]
    package: str
    """Distribution to install if a part is missing."""
    parts: tuple[PathBelow, ...] = Field(min_length=1, strict=False)
    """Paths of the parts below site-packages, in order."""
    sha256: str = Field(pattern=SHA256_PATTERN)
    """Checksum of the parts put together."""


class HubSource(Strict):
    """A model on the Hugging Face hub, pinned by a commit; `main` is resolved to one when the model is fetched."""

    kind: Literal["hub"]
    name: str = Field(pattern=OWNED_NAME_PATTERN)
    """The repository, owner/name."""
    revision: str = Field(pattern=MODEL_REVISION_PATTERN)
    """Commit of the repository, 40 hexadecimal digits, or `main`, which is resolved once and written down."""


class FolderSource(Strict):
    """A local folder with config.json, tokenizer.json and safetensors weights."""

    kind: Literal["folder"]
    path: str
    """The folder; a relative path starts from the run's folder."""


class PlainPrompt(Strict):
    """A prompt for a model without a chat template."""

    format: Literal["plain"]
    template: str = "Question: {prompt}\nAnswer:"
    """Text around a prompt; it has `{prompt}` once."""

    @field_validator("template")
    @classmethod
    def _has_slot(cls, value: str) -> str:
        if value.count("{prompt}") != 1 or "{{prompt}}" in value:
            raise ValueError("must contain {prompt} exactly once, in single braces")
        return value


# What a template is given of the conversation itself.
_TAKEN = {"messages", "add_generation_prompt", "continue_final_message", "tools", "documents", "strftime_now"}
_TAKEN |= {"chat_template", "conversations", "return_assistant_tokens_mask", "raise_exception"}


class ChatPrompt(Strict):
    """A prompt in the tokenizer's own chat template (paper: the backbones are chat models)."""

    format: Literal["chat"]
    system: str | None = None
    """System message; null gives none. Published code: an empty one to train, \"You are a helpful assistant.\"
    to probe."""
    add_special_tokens: bool = False
    """Whether the tokenizer adds its own special tokens to the rendered prompt, too. Published code: yes to probe,
    which gives a second BOS token."""
    template_variables: dict[str, str | int | float | bool | None] = {}
    """Variables that the chat template reads, such as `{enable_thinking: false}`. Their values are values of JSON."""
    date: Annotated[datetime.date, Field(strict=False)] = datetime.date(2024, 7, 26)
    """Date that a template prints instead of today's, so that a prompt is the same every day. The default is
    what Llama 3.2's template falls back to."""

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

    disk_gb: Positive | None = None
    """GB of the checkpoint that prepare_backbone writes. The free space is checked against it."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs that evaluation spreads the model over. Other stages take one, or none with 0; a fine-tuning takes its
    `gpus`."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM takes."""
    answer_jobs: Count = 1
    """Number of jobs, perhaps on as many machines, that answering is spread over."""
    mem_gb: Positive | None = None
    """GB of main memory of a job that loads the model. The default is what the demo's models need."""
    runtime: Count | None = None
    """Minutes of such a job on a cluster. The default is an hour."""
    threads: Count | None = None
    """Threads of evaluation, and of training on all layers. The default is all of Snakemake's `--cores`."""
    partition: str | None = None
    """SLURM partition of such jobs. The default is the cluster's own choice."""


class Source(Strict):
    """Where a backbone comes from and how it is prompted: everything of it that changes a result."""

    source: Annotated[PackageSource | HubSource | FolderSource, Field(discriminator="kind")]
    """Where the weights come from: a package, the hub or a folder."""
    license: str
    """Licence of the weights, as the model card is to name it."""
    prompt: Prompt
    """How a prompt is presented to the model: in its chat template, or plain."""


class Backbone(Source):
    """A model that is untouched so far."""

    prompts: dict[Name, Prompt] = {}
    """Corpus -> the prompt format of its texts in probing and training, if it is not `prompt`."""
    resources: Resources = Resources()
    """What the backbone needs of the machine; it never changes a result."""
