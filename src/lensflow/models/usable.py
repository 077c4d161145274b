"""Whether what a checkpoint folder holds fits together: its tensors, its tokenizer, its numbers (`lensflow check`).

transformers fills a weight that is missing with random numbers, ignores one that it does not know, and computes with
what is not a number. Here each of these is an error of one line, before anything long runs.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lensflow.artifacts.checkpoint import INDEX, WHOLE, text_config, weight_paths
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.chat import ChatTemplate
from lensflow.models.engines.ends import check_ends
from lensflow.models.loading import import_transformers, one_line
from lensflow.models.skeleton import Skeleton, embedding_of
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, Prompt

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\.")
_PROBE = "Lensflow: how long is 1 km?\nAnswer in one sentence. 雨はなぜ降りますか。"


def check_tensors(checkpoint: Path) -> list[str]:
    """Check without weights that a checkpoint has the tensors that its family and config.json want.

    Args:
        checkpoint: folder with config.json, and an index or weights.

    Returns:
        Names of tensors outside of the layers that run, which nothing reads.

    Raises:
        LensflowError: a tensor is missing, has another shape, is no floating-point number, or belongs to a layer and
            would not be used.
    """
    skeleton = Skeleton(checkpoint, attention="eager")
    model, plain = skeleton.model, skeleton.conversion.plain
    state, unused = model.state_dict(), skeleton.unused()
    family = f"a model of type '{model.config.model_type}' with this config.json"
    if missing := sorted(skeleton.missing(), key=_by_number):
        other = next(iter(unused.values()), None)
        raise LensflowError(
            f"{checkpoint}: weight '{missing[0]}' is missing (of {len(missing)}); "
            + (f"'{other}' is there, which nothing reads; " if other else "")
            + f"give all tensors of {family}, with the names that transformers saves"
        )
    for key, name in unused.items():
        if _ADAPTER.search(name):
            raise LensflowError(f"{checkpoint}: tensor '{name}' is of an adapter; merge it into its model")
        if skeleton.is_of_a_layer(key):
            raise LensflowError(
                f"{checkpoint}: tensor '{name}' would not be used by {family}; give the config.json of these weights"
            )
    if (more := skeleton.left_out()) is not None:
        raise LensflowError(
            f"{checkpoint}: tensor '{more}' is of a layer that config.json leaves out: num_hidden_layers is "
            f"{len(skeleton.layers)}; give the config.json of these weights, or remove the layers above"
        )
    headers = WeightFiles(checkpoint).headers()
    for name in skeleton.conversion.names_of({name for name, _ in model.named_parameters()}):
        if name in headers and headers[name].dtype not in _FLOATS:
            raise LensflowError(
                f"{checkpoint}: tensor '{name}' is of type {headers[name].dtype}; give the original checkpoint in 16 "
                "or 32 bits"
            )
    for key, name in plain.items():
        if name in headers and headers[name].shape != (wanted := tuple(state[key].shape)):
            raise LensflowError(
                f"{checkpoint}: weight '{name}' has the shape {headers[name].shape}, and config.json wants {wanted}; "
                "give files that belong together"
            )
    return sorted(unused.values())


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def check_tokens(checkpoint: Path, prompt: Prompt) -> None:
    """Check that a checkpoint's tokenizer loads and makes prompts of tokens that the model has, and how answers end.

    Raises:
        LensflowError: it does not, or files name an end token that there is none of.
    """
    tokenizer = PromptTokenizer(checkpoint, prompt)
    if not tokenizer.encode(_PROBE):
        raise LensflowError(f"{checkpoint}: its tokenizer makes no tokens of a prompt; give the tokenizer of the model")
    check_ends(checkpoint, tokenizer)


# Keys that transformers takes although its configurations have other names for them.
_OLDER_KEYS = frozenset({"rope_theta", "rope_scaling", "torch_dtype"})


def hints_of(checkpoint: Path, prompt: Prompt) -> Iterator[str]:
    """Say what looks like a mistake in a checkpoint's settings, and may be none.

    Args:
        checkpoint: folder with config.json and the tokenizer's settings.
        prompt: how the model is asked.
    """
    config = import_transformers().AutoConfig.from_pretrained(checkpoint).get_text_config(decoder=True)
    written = text_config(checkpoint)
    fields = {field.name for field in dataclasses.fields(config) if not field.name.startswith("_")}
    known = fields | {*config.attribute_map} | _OLDER_KEYS
    for key in sorted(written.keys() - known):
        if meant := difflib.get_close_matches(key, known - written.keys(), n=1, cutoff=0.85):
            yield f"nothing reads '{key}' of config.json; did you mean '{meant[0]}'?"
    if isinstance(prompt, ChatPrompt):
        if beginning := ChatTemplate(checkpoint, prompt).missing_beginning:
            yield (
                f"the chat template writes '{beginning}' before an answer that is there, and not before one that is "
                "asked for; add it where add_generation_prompt is true"
            )
    elif prompt.template.endswith(" "):
        yield "prompt.template ends in a space, which most tokenizers join with the first word of an answer; remove it"


def check_numbers(checkpoint: Path) -> None:
    """Check that every weight is a number, and that what there is twice is the same; reads all weights once.

    Raises:
        LensflowError: a weight is NaN or infinite, the embeddings are zero throughout, or two tensors that should be
            one differ.
    """
    files = WeightFiles(checkpoint)
    for name in sorted(files.location, key=_by_number):
        tensor = files.read(name)
        if not _is_finite(tensor):
            raise LensflowError(
                f"{checkpoint}: weight '{name}' holds NaN or infinite numbers; give a checkpoint of a training that "
                "did not diverge, or fetch it again"
            )
    with one_line(checkpoint):
        skeleton = Skeleton(checkpoint, attention="eager")
    embeddings = f"{skeleton.prefix}{embedding_of(skeleton.decoder)}.weight"
    if embeddings in skeleton.conversion.plain and not skeleton.conversion.read(embeddings).any():
        raise LensflowError(
            f"{checkpoint}: weight '{embeddings}' is zero throughout, as of a file that was not fetched to its end; "
            "fetch it again"
        )
    for one, other in skeleton.tied():
        if not files.read(one).equal(files.read(other)):
            raise LensflowError(
                f"{checkpoint}: config.json says that '{one}' and '{other}' are one tensor (tie_word_embeddings), and "
                "they differ; set it to false, or give files that belong together"
            )
    _check_copies(checkpoint, files)


def _is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor holds no NaN and nothing infinite; the extremes of NaN are NaN."""
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _check_copies(checkpoint: Path, files: WeightFiles) -> None:
    """Check that model.safetensors beside an index that does not name it holds the same tensors."""
    whole = checkpoint / WHOLE
    if not (checkpoint / INDEX).is_file() or not whole.is_file() or whole in weight_paths(checkpoint):
        return
    with safe_open(whole, framework="pt") as copy:
        for name in copy.keys():  # noqa: SIM118 (not a dictionary)
            if name in files.location and not files.read(name).equal(copy.get_tensor(name)):
                raise LensflowError(
                    f"{checkpoint}: {WHOLE} and the files that {INDEX} names hold other numbers for '{name}'; remove "
                    "one of these copies"
                )
