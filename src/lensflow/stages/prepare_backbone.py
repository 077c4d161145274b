"""Backbones as safetensors checkpoints, one folder each (stage `prepare_backbone`)."""

import functools
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from lensflow.artifacts.checkpoint import (
    INDEX,
    READ_FILES,
    WHOLE,
    check_checkpoint,
    check_files,
    files_of,
    size_of,
    weight_paths,
)
from lensflow.artifacts.tokens import chat_template
from lensflow.errors import LensflowError, of_the_hub
from lensflow.models.chat import ChatTemplate
from lensflow.schema.backbone import Backbone, ChatPrompt, FolderSource, HubSource, PackageSource, Prompt, Source
from lensflow.schema.stages import Preparing
from lensflow.storage.atomic import write_json
from lensflow.storage.digests import current_digest, digest
from lensflow.storage.paths import resolve
from lensflow.storage.verified import read_json

# Small shards, so that an exported checkpoint rewrites the trained layers and links everything else.
SHARD_SIZE = "100MB"
LOG = logging.getLogger(__name__)
BRANCH = "main"  # a revision that is no commit
_PATIENCE = 10  # seconds that a check waits for the hub


def package_parts(source: PackageSource) -> list[Path]:
    """Return the paths of a backbone's parts in its package.

    Raises:
        LensflowError: the package or a part is missing.
    """
    try:
        package = distribution(source.package)
    except PackageNotFoundError:
        raise LensflowError(f"package {source.package}: missing; install it") from None
    paths = [Path(str(package.locate_file(part))) for part in source.parts]
    for path in paths:
        if not path.is_file():
            raise LensflowError(f"{path}: missing; install the package {source.package} again")
    return paths


def check_source(name: str, backbone: Source, root: Path) -> None:
    """Check that the files of a backbone exist, without reading weights.

    (Files of the hub are fetched when they are needed.)

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


def check_prompt(name: str, backbone: Backbone, root: Path) -> Path | None:
    """Check everything about a backbone that takes seconds, not minutes: a folder's chat template, the hub's small
    files.

    Weights are not fetched. If the hub cannot be reached, nothing is checked; `prepare_backbone` repeats the check.

    Returns:
        A folder with the small files; None if there is none yet.

    Raises:
        LensflowError: Lensflow cannot use the checkpoint, or its chat template does not fit the prompt.
    """
    source = backbone.source
    if isinstance(source, FolderSource):
        folder = resolve(source.path, root)
    elif isinstance(source, HubSource) and (names := _listed(source)) is not None:
        _check_weights(names, f"backbones.{name}.source: {source.name}")
        folder = _fetched(source, READ_FILES)
        check_files(folder, f"backbones.{name}.source: ")
    else:
        return None
    _check_template(folder, backbone.prompt, f"backbones.{name}.prompt")
    for corpus, prompt in backbone.prompts.items():
        _check_template(folder, prompt, f"backbones.{name}.prompts.{corpus}")
    return folder


def _check_weights(names: Collection[str], where: str) -> None:
    """Refuse a repository that has no readable weights."""
    if "adapter_config.json" in names:
        raise LensflowError(f"{where} holds an adapter (adapter_config.json); merge it into its model")
    if INDEX not in names and WHOLE not in names:
        held = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))), None)
        raise LensflowError(
            f"{where} has neither {INDEX} nor {WHOLE}{f' ({held} is not read)' if held else ''}; "
            "name a repository with safetensors weights, or convert them"
        )


def _check_template(folder: Path, prompt: Prompt, where: str) -> None:
    if isinstance(prompt, ChatPrompt):
        ChatTemplate(folder, prompt).check(where)


def _listed(source: HubSource) -> list[str] | None:
    """Return the names of the files in a repository; None if the hub cannot be reached."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().model_info(source.name, revision=source.revision, timeout=_PATIENCE)
    except (RevisionNotFoundError, RepositoryNotFoundError) as error:  # the latter covers gated ones
        raise _refused(source, error) from None
    except Exception:  # networks fail in types of several libraries
        return None
    return [file.rfilename for file in found.siblings or ()]


def prepare_backbone(backbone: Source, root: Path, output: Path) -> None:
    """Write the checkpoint of a backbone beside `output`, its manifest with sizes and checksums.

    Args:
        backbone: the catalog's entry.
        root: folder from which relative paths of the entry start.
        output: the manifest; the checkpoint's files lie beside it.

    Raises:
        LensflowError: a file is missing, truncated or fails its checksum; the hub refuses; or the prompt format needs a
            chat template that the tokenizer lacks.
    """
    folder, source = output.parent, backbone.source
    if isinstance(source, FolderSource) and folder.resolve() == resolve(source.path, root).resolve():
        raise LensflowError(f"{source.path}: is where this backbone's checkpoint is written; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if isinstance(source, PackageSource):
        _from_package(source, backbone, origin := folder)
        check_checkpoint(folder)
    elif isinstance(source, HubSource):
        source = _pinned(source)
        _link_all(origin := _download(source), folder, f"{source.name}: ")
    else:
        _link_all(origin := resolve(source.path, root), folder, f"{source.path}: ")
    if isinstance(backbone.prompt, ChatPrompt) and not (folder / "chat_template.jinja").is_file():
        (folder / "chat_template.jinja").write_text(chat_template(origin), encoding="utf-8")
    _check_template(folder, backbone.prompt, "prompt")
    layers, width = size_of(folder)
    listing = {
        path.name: {"size": path.stat().st_size, "sha256": current_digest(path)} for path in sorted(folder.iterdir())
    }
    weights = {name: entry["sha256"] for name, entry in listing.items() if name.endswith(".safetensors")}
    write_json(
        output,
        {
            "license": backbone.license,
            "source": source.canonical(),
            "layers": layers,
            "hidden_size": width,
            "model_type": read_json(folder / "config.json")["model_type"],
            "files": listing,
            "weights": digest(weights),
        },
    )


def _from_package(source: PackageSource, backbone: Source, folder: Path) -> None:
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
    """Parse a GGUF file once. transformers would parse it for configuration, tokenizer and weights, 9 s each time."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = functools.cache(reader)
    try:
        yield
    finally:
        gguf.GGUFReader = reader


def _add_bos(tokenizer: Any, gguf: Path) -> None:
    """Let the tokenizer add BOS if the GGUF file says so, which transformers' conversion does not do."""
    from gguf import GGUFReader
    from tokenizers.processors import TemplateProcessing

    field = GGUFReader(str(gguf)).get_field("tokenizer.ggml.add_bos_token")
    wanted = bool(field.contents()) if field is not None else False
    if wanted and tokenizer("a").input_ids[0] != tokenizer.bos_token_id:
        bos, index = tokenizer.bos_token, tokenizer.bos_token_id
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, index)]
        )


def _pinned(source: HubSource) -> HubSource:
    """Return the source with the commit that its branch has now, so that all files belong to one commit."""
    from huggingface_hub import HfApi

    if source.revision != BRANCH:
        return source
    try:
        commit = HfApi().model_info(source.name, revision=BRANCH, timeout=_PATIENCE).sha
    except Exception as error:  # the hub's and the network's errors have no common type
        raise _refused(source, error) from None
    LOG.warning("%s: %s is %s today; set source.revision to it", source.name, BRANCH, commit)
    return source.model_copy(update={"revision": commit})


def _download(source: HubSource) -> Path:
    """Fetch a repository: first the small files, which show whether the weights are usable and which files they are
    in."""
    folder = _fetched(source, READ_FILES)
    check_files(folder, f"{source.name}: ")
    names = [path.name for path in weight_paths(folder)] if (folder / INDEX).is_file() else [WHOLE]
    return _fetched(source, [*READ_FILES, *names])


def _fetched(source: HubSource, names: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source.name, revision=source.revision, allow_patterns=list(names)))
    except (OSError, ValueError) as error:
        raise _refused(source, error) from None


def _refused(source: HubSource, error: Exception) -> LensflowError:
    """Return what to do about an error of the hub."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    where = f"{source.name}@{source.revision[:8]}"
    if isinstance(error, GatedRepoError):
        return LensflowError(f"{where}: gated; accept its licence on the hub and set HF_TOKEN")
    if isinstance(error, RevisionNotFoundError):
        return LensflowError(f"{where}: the hub has no such revision; update source.revision")
    if isinstance(error, RepositoryNotFoundError):
        return LensflowError(f"{where}: the hub has no such repository, or it is private; set HF_TOKEN")
    return LensflowError(f"{where}: cannot be fetched ({of_the_hub(error)[:200]}); check the network")


def _link_all(source: Path, folder: Path, where: str) -> None:
    """Link the files of a checkpoint that stages read. Other files in its folder are not linked."""
    tensors = check_checkpoint(source, where)
    for path in files_of(source):
        (folder / path.name).symlink_to(path.resolve())
    if not (folder / INDEX).is_file() and not (folder / WHOLE).is_file():
        # Under other names transformers finds no weights without an index.
        write_json(folder / INDEX, {"metadata": {}, "weight_map": tensors})


def run(config: Preparing, *, root: Path, output: Path) -> None:
    """Turn a backbone's source into a checkpoint folder."""
    prepare_backbone(config.backbone, root, output)
