"""Where a backbone comes from, and what is said when it does not."""

import json
from pathlib import Path

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import load_file, save_file

from lensflow.artifacts.checkpoint import check_checkpoint, size_of, verify
from lensflow.errors import LensflowError
from lensflow.schema.backbone import Backbone, PackageSource
from lensflow.schema.parsing import parse
from lensflow.stages.prepare_backbone import check_source, package_parts, prepare_backbone
from lensflow.storage.digests import file_digest
from lensflow.storage.verified import read_json

HUB = {"kind": "hub", "name": "some/model", "revision": "0123456789" * 4}


def write_checkpoint(folder: Path, scale: float = 1.0) -> Path:
    folder.mkdir()
    config = {"num_hidden_layers": 4, "hidden_size": 2, "model_type": "tiny"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_text("not wanted")
    for shard in (1, 2):
        save_file({f"weight{shard}": np.full((4, 2), scale * shard)}, folder / f"model-{shard}.safetensors")
    index = {"weight_map": {f"weight{shard}": f"model-{shard}.safetensors" for shard in (1, 2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def backbone(source: dict, prompt: str = "plain", license_name: str = "none") -> Backbone:
    entry = {"source": source, "license": license_name, "prompt": {"format": prompt}}
    return parse(Backbone, entry)


def from_folder(path: Path | str, **keys: str) -> Backbone:
    return backbone({"kind": "folder", "path": str(path)}, **keys)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source")


def test_a_folder_is_linked_and_listed(source, tmp_path):
    manifest = tmp_path / "backbone" / "manifest.json"
    prepare_backbone(from_folder("source", license_name="MIT"), tmp_path, manifest)
    content = read_json(manifest)
    assert content["license"] == "MIT"
    assert (content["layers"], content["hidden_size"], content["model_type"]) == (4, 2, "tiny")
    wanted = {path.name for path in source.iterdir()} - {"pytorch_model.bin"}
    assert set(content["files"]) == wanted == {path.name for path in manifest.parent.iterdir()} - {"manifest.json"}
    for name, entry in content["files"].items():
        assert (manifest.parent / name).resolve() == source / name
        assert entry == {"size": (source / name).stat().st_size, "sha256": file_digest(source / name)}
    assert load_file(manifest.parent / "model-2.safetensors")["weight2"][0, 0] == 2.0


def test_weights_have_a_digest_of_their_own(source, tmp_path):
    def weights(path: Path, **keys: str) -> str:
        prepare_backbone(from_folder(path, **keys), tmp_path, tmp_path / "backbone" / "manifest.json")
        return read_json(tmp_path / "backbone" / "manifest.json")["weights"]

    first = weights(source)
    assert weights(source, license_name="MIT") == first
    assert weights(write_checkpoint(tmp_path / "other", scale=2.0)) != first


def test_preparing_again_leaves_nothing_of_before(source, tmp_path):
    manifest = tmp_path / "backbone" / "manifest.json"
    manifest.parent.mkdir()
    (manifest.parent / "old.json").write_text("{}")
    prepare_backbone(from_folder(source), tmp_path, manifest)
    assert not (manifest.parent / "old.json").exists()


def test_a_chat_template_is_taken_out_of_the_tokenizers_settings(source, tmp_path):
    (source / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    check_source("b", from_folder(source, prompt="chat"), tmp_path)
    prepare_backbone(from_folder(source, prompt="chat"), tmp_path, tmp_path / "backbone" / "manifest.json")
    assert (tmp_path / "backbone" / "chat_template.jinja").read_text() == "{{ messages[0].content }}"
    assert not (source / "chat_template.jinja").exists()


def test_a_chat_template_that_is_not_there(source, tmp_path):
    message = "source: the tokenizer has no chat template; set prompt.format: plain"
    with pytest.raises(LensflowError, match=message):
        check_source("b", from_folder(source, prompt="chat"), tmp_path)


@pytest.mark.parametrize("damage", ["truncate", "remove", "flip"])
def test_verify_sees_what_happened_to_a_checkpoint(source, tmp_path, damage):
    manifest = tmp_path / "backbone" / "manifest.json"
    prepare_backbone(from_folder(source), tmp_path, manifest)
    assert verify(manifest) == read_json(manifest)
    shard = source / "model-2.safetensors"
    content = shard.read_bytes()
    shard.unlink()
    if damage != "remove":
        shard.write_bytes(content[:-1] if damage == "truncate" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        LensflowError, match=r"model-2.safetensors: missing, truncated or changed; delete .* and run again"
    ):
        verify(manifest)


def test_a_checkpoint_is_complete_before_it_is_listed(source, tmp_path):
    shard = source / "model-2.safetensors"
    whole = shard.read_bytes()
    manifest = tmp_path / "backbone" / "manifest.json"
    for content in (whole[:-1], whole[:4], b""):
        shard.write_bytes(content)
        with pytest.raises(LensflowError, match=r"model-2.safetensors is truncated or damaged .*; fetch") as error:
            prepare_backbone(from_folder(source), tmp_path, manifest)
        assert "\n" not in str(error.value)
        assert not manifest.exists()
    shard.write_bytes(whole)
    check_checkpoint(source)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "llava", "text_config": {}},
            r"model_type 'llava' has a language model in it",
        ),
        ({"model_type": "odd", "hidden_size": None}, r"no num_hidden_layers or hidden_size: family 'odd' is not"),
    ],
)
def test_a_family_that_cannot_work_is_refused_before_anything_runs(source, tmp_path, changes, message):
    config = read_json(source / "config.json") | changes
    (source / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(LensflowError, match=rf"^backbones.b.source.path: .*config.json.*{message}"):
        check_source("b", from_folder(source), tmp_path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "gpt2", "n_layer": 3, "n_embd": 8}, (3, 8)),
        ({"model_type": "gemma3", "text_config": {"num_hidden_layers": 5, "hidden_size": 16}}, (5, 16)),
        ({"model_type": "odd", "num_hidden_layers": 2, "hidden_size": 4}, (2, 4)),
    ],
)
def test_depth_and_width_are_what_transformers_takes_them_for(tmp_path, config, expected):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert size_of(tmp_path) == expected


def test_the_parts_of_a_package(tmp_path, monkeypatch):
    """A package may lie anywhere that Python looks, not only in the environment's own folder."""
    content = PackageSource(kind="package", package="some-model", parts=("b/part0", "a/part1"), sha256="0" * 64)
    entry = backbone(content.canonical())
    with pytest.raises(LensflowError, match=r"^package some-model: missing; install it$"):
        check_source("m", entry, tmp_path)
    (tmp_path / "some_model-1.dist-info").mkdir()
    (tmp_path / "some_model-1.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: some-model\nVersion: 1\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LensflowError, match="b/part0: missing; install the package some-model again"):
        check_source("m", entry, tmp_path)
    for part in content.parts:
        (tmp_path / part).parent.mkdir()
        (tmp_path / part).write_bytes(b"x")
    assert package_parts(content) == [tmp_path / "b/part0", tmp_path / "a/part1"]
    check_source("m", entry, tmp_path)
    (tmp_path / "a/part1").write_bytes(b"")
    with pytest.raises(LensflowError, match="a/part1: empty; install the package some-model again"):
        check_source("m", entry, tmp_path)
    with pytest.raises(LensflowError, match="some-model: the model file fails its checksum"):
        prepare_backbone(entry, tmp_path, tmp_path / "backbone" / "manifest.json")


RESPONSE = httpx2.Response(403, request=httpx2.Request("GET", "https://example.org"))


@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        (GatedRepoError("no", response=RESPONSE), "gated; accept its licence on the hub and set HF_TOKEN"),
        (RepositoryNotFoundError("no", response=RESPONSE), "the hub has no such repository, or it is private"),
        (RevisionNotFoundError("no", response=RESPONSE), "the hub has no such revision; update source.revision"),
        (LocalEntryNotFoundError("offline\nand more"), r"cannot be fetched \(offline and more\); check the network"),
    ],
)
def test_what_the_hub_refuses(tmp_path, monkeypatch, refusal, message):
    def download(*_: object, **__: object) -> str:
        raise refusal

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    check_source("b", backbone(HUB), tmp_path)  # asked only when it is needed
    with pytest.raises(LensflowError, match=f"some/model@01234567: {message}") as error:
        prepare_backbone(backbone(HUB), tmp_path, tmp_path / "backbone" / "manifest.json")
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_the_pinned_revision(source, tmp_path, monkeypatch):
    asked = {}

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(source)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    prepare_backbone(backbone(HUB), tmp_path, tmp_path / "backbone" / "manifest.json")
    assert (asked["name"], asked["revision"]) == (HUB["name"], HUB["revision"])
    assert not any(pattern.endswith(("bin", "*", "pt")) for pattern in asked["patterns"] if "." in pattern)
    assert verify(tmp_path / "backbone" / "manifest.json")["layers"] == 4
