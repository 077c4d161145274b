"""Checks that the parts of a checkpoint folder fit together: tensors, tokenizer and numbers (`lensflow check`).

transformers fills a missing weight with random numbers, ignores an unknown one, and computes with NaN. Here each of
these is a one-line error before a long job runs.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from lensflow.artifacts.checkpoint import INDEX, WHOLE, text_config, weight_paths
from lensflow.artifacts.tokens import end_token_ids
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.chat import ChatTemplate
from lensflow.models.engines.ends import check_ends
from lensflow.models.loading import import_transformers, one_line
from lensflow.models.skeleton import Skeleton
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import ChatPrompt, Prompt

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\.")
_MARK = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]+\]")  # what most end-of-turn tokens look like
_PROBE = "Lensflow: how long is 1 km?\nAnswer in one sentence. 雨はなぜ降りますか。"


def check_tensors(checkpoint: Path) -> list[str]:
    """Check without weights that a checkpoint has the tensors that its family and config.json need.

    Args:
        checkpoint: folder with config.json, and an index or weights.

    Returns:
        Names of tensors that no code reads, outside of the layers that run.

    Raises:
        LensflowError: a tensor is missing, has another shape, does not hold floating-point numbers, or belongs to a
            layer but would not be used.
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
            f"{checkpoint}: tensor '{more}' belongs to a layer that config.json leaves out: num_hidden_layers is "
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
                f"{checkpoint}: weight '{name}' has the shape {headers[name].shape}, but config.json requires "
                f"{wanted}; "
                "give files that belong together"
            )
    return sorted(unused.values())


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def check_tokens(checkpoint: Path, prompt: Prompt) -> None:
    """Check that a checkpoint's tokenizer loads, that prompts consist of the model's tokens, and that answers can end.

    Raises:
        LensflowError: a check fails, or the files name an end token that does not exist.
    """
    tokenizer = PromptTokenizer(checkpoint, prompt)
    if not tokenizer.encode(_PROBE):
        raise LensflowError(f"{checkpoint}: its tokenizer makes no tokens of a prompt; give the tokenizer of the model")
    check_ends(checkpoint, tokenizer)


# Keys that transformers takes although its configurations have other names for them.
_OLDER_KEYS = frozenset({"rope_theta", "rope_scaling", "torch_dtype"})


def hints_of(checkpoint: Path, prompt: Prompt) -> Iterator[str]:
    """Return hints about settings of a checkpoint that may be mistakes.

    Args:
        checkpoint: folder with config.json and the tokenizer's settings.
        prompt: the prompt format.
    """
    config = import_transformers().AutoConfig.from_pretrained(checkpoint).get_text_config(decoder=True)
    written = text_config(checkpoint)
    fields = {field.name for field in dataclasses.fields(config) if not field.name.startswith("_")}
    known = fields | {*config.attribute_map} | _OLDER_KEYS
    for key in sorted(written.keys() - known):
        if meant := difflib.get_close_matches(key, known - written.keys(), n=1, cutoff=0.85):
            yield f"nothing reads '{key}' of config.json; did you mean '{meant[0]}'?"
    tokenizer = PromptTokenizer(checkpoint, prompt).tokenizer
    for index in end_token_ids(checkpoint):
        if index not in tokenizer.get_added_tokens_decoder():
            yield (
                f"answers end at token {index}, {tokenizer.id_to_token(index)!r}, which is a part of words; correct "
                "eos_token_id in generation_config.json or config.json if it is no mark"
            )
    if isinstance(prompt, ChatPrompt):
        template = ChatTemplate(checkpoint, prompt)
        if beginning := template.missing_beginning:
            yield (
                f"the chat template writes '{beginning}' before an answer that is there, and not before one that is "
                "asked for; add it where add_generation_prompt is true"
            )
        if not template.keeps_turns:
            yield "the chat template leaves out turns; a model does not see examples and turns before a question"
        end = _MARK.match(template.turn_end)
        if end and tokenizer.token_to_id(end[0]) is None:
            yield (
                f"the chat template ends an answer with '{end[0]}', which is no token of the tokenizer; give the "
                "template of this model"
            )
    elif prompt.template.endswith(" "):
        yield "prompt.template ends in a space, which most tokenizers join with the first word of an answer; remove it"


def check_numbers(checkpoint: Path) -> None:
    """Check that every weight is a number and that duplicate tensors are equal; this reads all weights once.

    Raises:
        LensflowError: a weight is NaN or infinite, all embeddings are zero, or two tensors that should be equal differ.
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
    ends = (skeleton.model.get_input_embeddings(), skeleton.model.get_output_embeddings())
    for name in [f"{name}.weight" for name, one in skeleton.model.named_modules() if any(one is end for end in ends)]:
        if name in skeleton.conversion.plain and not skeleton.conversion.read(name).any():
            raise LensflowError(
                f"{checkpoint}: weight '{name}' is all zeros, as in a file that was not fetched completely; "
                "fetch it again"
            )
    for one, other in skeleton.tied():
        if not files.read(one).equal(files.read(other)):
            raise LensflowError(
                f"{checkpoint}: config.json says that '{one}' and '{other}' are one tensor (tie_word_embeddings), "
                f"but they differ; set it to false, or give files that belong together"
            )
    _check_copies(checkpoint, files)


def _is_finite(tensor: Tensor) -> bool:
    """Return whether a tensor has neither NaN nor infinite numbers.

    (If it has a NaN, its minimum and maximum are NaN.)
    """
    return not tensor.numel() or all(bool(extreme.isfinite()) for extreme in tensor.aminmax())


def _check_copies(checkpoint: Path, files: WeightFiles) -> None:
    """Check tensors that the index puts into another file: both copies must be equal."""
    if not (checkpoint / INDEX).is_file():
        return
    for path in sorted({checkpoint / WHOLE, *weight_paths(checkpoint)}):
        if not path.is_file():
            continue
        with safe_open(path, framework="pt") as copy:
            for name in sorted(copy.keys()):
                place = files.location.get(name, path)
                if place != path and not files.read(name).equal(copy.get_tensor(name)):
                    raise LensflowError(
                        f"{checkpoint}: {path.name} and {place.name}, which {INDEX} names, hold different numbers for "
                        f"'{name}'; remove one of these copies"
                    )
