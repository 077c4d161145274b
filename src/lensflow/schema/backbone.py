"""The section `backbones`: where weights come from, how prompts are formatted, and what resources the jobs need."""

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
    PromptText,
)


class PackageSource(Strict):
    """Model weights in GGUF form in a Python package, in one or more parts."""

    kind: Literal["package"]
    package: str
    """Distribution to install if a part is missing."""
    parts: tuple[PathBelow, ...] = Field(min_length=1, strict=False)
    """Paths of the parts below site-packages, in order."""
    sha256: str = Field(pattern=SHA256_PATTERN)
    """Checksum of the concatenated parts."""


class HubSource(Strict):
    """A model on the Hugging Face hub, pinned by a commit; `main` is resolved to one when the model is fetched."""

    kind: Literal["hub"]
    name: str = Field(pattern=OWNED_NAME_PATTERN)
    """The repository, owner/name."""
    revision: str = Field(pattern=MODEL_REVISION_PATTERN)
    """Commit of the repository, 40 hexadecimal digits, or `main`. `main` is resolved once, and the manifest records the
    commit."""


class FolderSource(Strict):
    """A local folder with config.json, tokenizer.json and safetensors weights."""

    kind: Literal["folder"]
    path: str
    """The folder; a relative path starts from the run's folder."""


class PlainPrompt(Strict):
    """A prompt for a model without a chat template."""

    format: Literal["plain"]
    template: PromptText = "Question: {prompt}\nAnswer:"
    """Text around a prompt; it contains `{prompt}` exactly once."""

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
    system: PromptText | None = None
    """System message; null gives none. Published code: an empty one to train, \"You are a helpful assistant.\"
    to probe."""
    add_special_tokens: bool = False
    """Whether the tokenizer also adds its own special tokens to the rendered prompt. Published code: yes to probe,
    which gives a second BOS token."""
    template_variables: dict[str, str | int | float | bool | None] = {}
    """Variables that the chat template reads, such as `{enable_thinking: false}`. Their values must be JSON values."""
    date: Annotated[datetime.date, Field(strict=False)] = datetime.date(2024, 7, 26)
    """Date that a template prints instead of today's date, so that a prompt is the same every day. The default is the
    fallback date in Llama 3.2's template."""

    @field_validator("template_variables")
    @classmethod
    def _own_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if name in _TAKEN or name.endswith("_token"):
                raise ValueError(f"'{name}' is set by Lensflow; remove it")
        return value


Prompt = Annotated[PlainPrompt | ChatPrompt, Field(discriminator="format")]


class Resources(Strict):
    """The resources that a backbone's jobs need; they never change a result."""

    disk_gb: Positive | None = None
    """Size in GB of the checkpoint that prepare_backbone writes. Lensflow checks that enough disk space is free."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs that evaluation spreads the model over. Other stages take one GPU, or none if this is 0. A fine-tuning takes
    its own `gpus`."""
    gpu_memory: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM takes."""
    answer_jobs: Count = 1
    """Number of `answer` jobs that share the checkpoints of the backbone. They may run on different machines."""
    mem_gb: Positive | None = None
    """GB of main memory of a job that loads the model. The default is what the demo's models need."""
    runtime: Count | None = None
    """Minutes of such a job on a cluster. The default is an hour."""
    threads: Count | None = None
    """Threads of evaluation, and of training on all layers. The default is all of Snakemake's `--cores`."""
    partition: str | None = None
    """SLURM partition of such jobs. The default is the cluster's own choice."""


class Source(Strict):
    """Where a backbone comes from and how its prompts are formatted: everything about a backbone that changes a
    result."""

    source: Annotated[PackageSource | HubSource | FolderSource, Field(discriminator="kind")]
    """Where the weights come from: a package, the hub or a folder."""
    license: str
    """Licence of the weights, as the model card should name it."""
    prompt: Prompt
    """How a prompt is presented to the model: in its chat template, or plain."""


class Backbone(Source):
    """A backbone: a model before any method changes it."""

    prompts: dict[Name, Prompt] = {}
    """Corpus -> the prompt format of its texts in probing and training, if it differs from `prompt`."""
    resources: Resources = Resources()
    """The resources that the backbone's jobs need; they never change a result."""
