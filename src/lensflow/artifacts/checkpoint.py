"""Checkpoint folders: whether a folder is complete, and whether its files are still as they were written."""

import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lensflow.artifacts.tokens import TEMPLATE_FILES
from lensflow.errors import LensflowError
from lensflow.storage.digests import digest, file_digest, has_digest
from lensflow.storage.integrity import record_of, set_aside
from lensflow.storage.parsing import LARGEST_JSON, parse_json, read_text
from lensflow.storage.verified import read_json, read_manifest

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
_COPIES = ("consolidated", "adapter_")  # Mistral's own second copy of the weights; what peft adds to them
# What is linked and read of a checkpoint beside its weights. Mistral's repositories also hold params.json and
# consolidated.safetensors: a second copy of the weights, which vLLM would prefer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SMALL_FILES = (
    *("config.json", "generation_config.json", *TOKENIZER_FILES),
    *("added_tokens.json", "chat_template.jinja", INDEX),
)
READ_FILES = tuple(dict.fromkeys((*SMALL_FILES, *TEMPLATE_FILES)))  # all that is read of it but its weights
# Keys of config.json that say how weights were quantised: transformers' own, MLX's, compressed-tensors' older one.
_QUANTISED = ("quantization_config", "quantization", "compression_config")
_PRECISIONS = ("float32", "bfloat16", "float16", "float64")
_QUANTISED_TENSORS = re.compile(r"\.(qweight|weight_packed|weight_scale(_inv)?|weight\.absmax|SCB)$")
# Keys of config.json that give the longest sequence that a model was made for.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len")


def weight_paths(checkpoint: Path) -> list[Path]:
    """Return the files that hold the weights of a checkpoint, as transformers would choose them.

    If there is an index, only the index counts. Some repositories hold a second copy of the weights under other names.

    Raises:
        LensflowError: the index is damaged, or names a file elsewhere.
    """
    listed = indexed(checkpoint)
    if listed is not None:
        return [checkpoint / name for name in sorted(set(listed.values()))]
    if (checkpoint / WHOLE).is_file():
        return [checkpoint / WHOLE]
    return sorted(path for path in checkpoint.glob("*.safetensors") if not path.name.startswith(_COPIES))


def indexed(checkpoint: Path) -> dict[str, str] | None:
    """Return the file of each tensor from an index; None if there is no index.

    Raises:
        LensflowError: the index is damaged, or names a file elsewhere.
    """
    index = checkpoint / INDEX
    if not index.is_file():
        return None
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise LensflowError(f"{index} has no weight_map of tensors to files; fetch it again")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise LensflowError(f"{index}: '{name}' is no *.safetensors beside it; fetch or convert it again")
    return names


def check_files(folder: Path, where: str = "") -> None:
    """Check everything in a checkpoint folder except the weights.

    Args:
        folder: folder of the checkpoint.
        where: the beginning of messages.

    Raises:
        LensflowError: a file is missing; the checkpoint needs pickle, its own code or the hub to load; or it cannot be
            trained.
    """
    if not folder.is_dir():
        what = "a file" if folder.exists() else "missing"
        raise LensflowError(
            f"{where}{folder} is {what}; name a folder with config.json, tokenizer.json and *.safetensors"
        )
    inside = [path for depth in ("*", "*/*") for path in sorted(folder.glob(f"{depth}/config.json"))]
    if inside and not (folder / "config.json").is_file():  # the hub's cache, or what a trainer wrote
        raise LensflowError(f"{where}{folder / 'config.json'} is missing; did you mean {inside[-1].parent}?")
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names, from anywhere
        raise LensflowError(f"{where}{folder} holds an adapter (adapter_config.json); merge it into its model")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise LensflowError(
                f"{where}{folder / name} is missing; give a checkpoint of transformers with a fast tokenizer"
            )
    for name in READ_FILES:
        path = folder / name
        if name.endswith(".json") and path.is_file() and not isinstance(_read(path, where), dict):
            raise LensflowError(f"{where}{path}: must be a mapping of keys to values; fetch it again")
    config = read_json(folder / "config.json")
    if not isinstance(config.get("model_type"), str):
        raise LensflowError(f"{where}{folder / 'config.json'} names no model_type; give a checkpoint of transformers")
    _check_family(config, folder, where)
    _check_precision(config, folder, where)


def _read(path: Path, where: str) -> Any:
    """Read a JSON file of a checkpoint that Lensflow must not delete."""
    try:
        return parse_json(read_text(path, LARGEST_JSON))
    except ValueError as error:
        raise LensflowError(f"{where}{path}: not valid JSON ({error}); fetch or write it again") from None
    except LensflowError as error:
        raise LensflowError(f"{where}{error}") from None


def _check_family(config: Mapping[str, Any], folder: Path, where: str) -> None:
    family, path = config["model_type"], f"{where}{folder / 'config.json'}"
    if "auto_map" in config:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # takes seconds

        if family not in CONFIG_MAPPING_NAMES:
            raise LensflowError(
                f"{path} needs the checkpoint's own code (auto_map) for model_type '{family}', which Lensflow does "
                f"not run; give a checkpoint of a family in transformers"
            )
    if "text_config" in config:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if family not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            raise LensflowError(
                f"{path}: model_type '{family}' has a language model in it (text_config), which transformers does not "
                "run alone; give the checkpoint of a language model"
            )
    try:
        size_of(folder)
    except LensflowError as error:
        raise LensflowError(f"{where}{error}") from None


def size_of(folder: Path) -> tuple[int, int]:
    """Return the number of layers of a checkpoint's text decoder, and the width of its states.

    Many families use other keys for these numbers; transformers knows them.

    Raises:
        LensflowError: neither config.json nor transformers gives these numbers.
    """
    path = folder / "config.json"
    config = read_json(path)
    found = [config.get(key) for key in ("num_hidden_layers", "hidden_size")]
    if not all(isinstance(value, int) for value in found):
        from transformers import CONFIG_MAPPING, AutoConfig  # takes seconds

        family, text = config["model_type"], None
        if family in CONFIG_MAPPING:
            with suppress(Exception):  # a family's own code can fail in any way
                text = AutoConfig.from_pretrained(folder).get_text_config(decoder=True)
        found = [getattr(text, key, None) for key in ("num_hidden_layers", "hidden_size")]
        if not all(isinstance(value, int) for value in found):
            raise LensflowError(f"{path} has no num_hidden_layers or hidden_size: family '{family}' is not supported")
    layers, width = found
    return layers, width


def _check_precision(config: Mapping[str, Any], folder: Path, where: str) -> None:
    """Refuse quantised weights: they cannot be trained, and they cannot be compared with the model that they come
    from."""
    inner = config.get("text_config")
    config = {**config, **inner} if isinstance(inner, dict) else config
    for key in ("dtype", "torch_dtype"):
        if isinstance(config.get(key), str) and config[key].removeprefix("torch.") not in _PRECISIONS:
            raise LensflowError(
                f"{where}{folder / 'config.json'}: {key} is '{config[key]}', none of {', '.join(_PRECISIONS)}; write "
                f"the precision of the weights"
            )
    named = next((key for key in _QUANTISED if config.get(key)), None)
    # Of older GPTQ and AWQ checkpoints, and of NVIDIA's.
    files = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
    named = named or next((name for name in files if (folder / name).is_file()), None)
    if named is not None:
        form = config.get(named, {})
        method = form.get("quant_method", "") if isinstance(form, dict) else ""
        raise LensflowError(
            f"{where}{folder / 'config.json'}: the weights are quantised ({' '.join(filter(None, (named, method)))}) "
            "and cannot be trained; give the original checkpoint in 16 or 32 bits"
        )


def check_checkpoint(folder: Path, where: str = "") -> dict[str, str]:
    """Check that a checkpoint folder is complete: all files exist, and the weights are as long as their headers say.

    Args:
        folder: folder of the checkpoint.
        where: the beginning of messages.

    Returns:
        Tensor -> the file that holds it.

    Raises:
        LensflowError: as in `check_files`, or weights are missing, truncated, damaged or quantised.
    """
    check_files(folder, where)
    try:
        weights, listed = weight_paths(folder), indexed(folder)
    except LensflowError as error:
        raise LensflowError(f"{where}{error}") from None
    if not weights:
        raise LensflowError(f"{where}no *.safetensors in {folder}; convert the checkpoint (pickles are not read)")
    found: dict[str, str] = {}
    for path in weights:
        if not path.is_file():
            raise LensflowError(f"{where}{path} is missing; fetch it again")
        try:
            with safe_open(path, framework="numpy") as file:
                names = set(file.keys())
        except SafetensorError as error:
            raise LensflowError(f"{where}{path} is truncated or damaged ({error}); fetch it again") from None
        if quantised := next(filter(_QUANTISED_TENSORS.search, names), None):
            raise LensflowError(
                f"{where}{path}: tensor '{quantised}' is quantised and cannot be trained; give the original checkpoint "
                "in 16 or 32 bits"
            )
        if listed is None and (twice := next((name for name in sorted(names) if name in found), None)):
            raise LensflowError(
                f"{where}{folder}: both {found[twice]} and {path.name} have tensor '{twice}', and no {INDEX} says "
                "which one counts; remove one of the files"
            )
        found |= dict.fromkeys(names, path.name)
        expected = {name for name, file in (listed or {}).items() if file == path.name}
        if absent := sorted(expected - names):
            raise LensflowError(
                f"{where}{folder / INDEX} puts tensor '{absent[0]}' into {path.name}, which lacks it; fetch both again"
            )
    return found


def files_of(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that stages read: the `SMALL_FILES` that it has, and its weights."""
    small = [folder / name for name in SMALL_FILES if (folder / name).is_file()]
    return sorted({*small, *weight_paths(folder)})


def small_files_digest(folder: Path) -> str:
    """Return the digest of a checkpoint's small files; it changes if a template or setting is edited."""
    return digest({name: file_digest(folder / name) for name in READ_FILES if (folder / name).is_file()})


def text_config(folder: Path) -> dict[str, Any]:
    """Return the keys of config.json.

    If it contains a text model, the keys of the text model replace the outer ones.
    """
    config: dict[str, Any] = read_json(folder / "config.json")
    inner = config.get("text_config")
    return config | inner if isinstance(inner, dict) else config


def positions(folder: Path) -> int | None:
    """Return the longest sequence that a checkpoint was made for; None if it is unknown.

    The sources are the keys of config.json and `model_max_length` of the tokenizer, which vLLM respects as well.
    """
    config, tokenizer = text_config(folder), read_json(folder / "tokenizer_config.json")
    found = [*(config.get(key) for key in _POSITIONS), tokenizer.get("model_max_length")]
    return min((value for value in found if isinstance(value, int) and value > 0), default=None)


def verify(manifest: Path) -> dict[str, Any]:
    """Read a manifest and check its files against their sizes and checksums.

    A large file that an earlier job has verified is not read again (`current_digest`). Reading 1 GB takes a second on
    one core.

    Raises:
        LensflowError: a file is missing or has changed. If a stage wrote the checkpoint, it was renamed.
    """

    def is_sound(path: Path, entry: Mapping[str, Any]) -> bool:
        return path.is_file() and path.stat().st_size == entry["size"] and has_digest(path, entry["sha256"])

    content = read_manifest(manifest)
    entries = {manifest.parent / name: entry for name, entry in content["files"].items()}
    for path in (path for path, entry in entries.items() if not is_sound(path, entry)):
        if record_of(manifest):
            raise set_aside(path)
        raise LensflowError(f"{path}: missing, truncated or changed; delete {manifest} and run again")
    return content


@contextmanager
def verifying(manifest: Path) -> Iterator[dict[str, Any]]:
    """Give a manifest, and `verify` its checkpoint while the block loads its weights; the check is complete when the
    block ends.

    Raises:
        LensflowError: as in `verify`, also if the block failed because files are damaged.
    """
    content = read_manifest(manifest)
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(verify, manifest)
        try:
            yield content
        finally:
            verified.result()
