"""Checkpoints as they lie in folders and on the hub: what is linked, what is refused before weights are fetched."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors.numpy import save_file

from lensflow.artifacts.checkpoint import check_checkpoint, check_files, positions, small_files_digest, weight_paths
from lensflow.errors import LensflowError
from lensflow.models.engines.process import last_line
from lensflow.schema.backbone import Backbone
from lensflow.schema.parsing import parse
from lensflow.stages.prepare_backbone import check_prompt, check_source, prepare_backbone
from lensflow.storage.verified import read_json

CONFIG = {"num_hidden_layers": 2, "hidden_size": 2, "model_type": "llama"}
HUB = {"kind": "hub", "name": "some/model", "revision": "0123456789" * 4}
COMMIT = "abcdef0123" * 4
TEMPLATE = "{{ messages[0].content }}"


def write(folder: Path, *weights: str, index: tuple[str, ...] = (), **config: Any) -> Path:
    """Write a checkpoint with these files of weights, of which an index names some."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text("{}")
    for number, name in enumerate(weights):
        save_file({f"weight{number}": np.zeros(2, np.float32)}, folder / name)
    if index:
        content = {"weight_map": {f"weight{weights.index(name)}": name for name in index}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    return folder


def entry(source: dict[str, Any] | Path, **prompt: Any) -> Backbone:
    source = {"kind": "folder", "path": str(source)} if isinstance(source, Path) else source
    found = parse(Backbone, {"source": source, "license": "none", "prompt": {"format": "plain"} | prompt})
    assert isinstance(found, Backbone)
    return found


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.mark.parametrize(
    ("weights", "index", "kept"),
    [
        ((*SHARDS, "consolidated.safetensors"), SHARDS, SHARDS),
        ((*SHARDS, "consolidated-00001-of-00001.safetensors", "model.safetensors"), SHARDS, SHARDS),
        (("model.safetensors", "consolidated.safetensors"), (), ("model.safetensors",)),
        (("model.safetensors", "model.fp16.safetensors"), (), ("model.safetensors",)),
        (
            ("weights.safetensors", "consolidated.safetensors", "adapter_model.safetensors"),
            (),
            ("weights.safetensors",),
        ),
    ],
)
def test_a_second_copy_of_the_weights_stays_behind(tmp_path, weights, index, kept):
    source = write(tmp_path / "source", *weights, index=index)
    for name in ("params.json", "tekken.json", "manifest.json", "README.md"):
        (source / name).write_text("{}")
    assert [path.name for path in weight_paths(source)] == sorted(kept)
    manifest = tmp_path / "backbone/manifest.json"
    prepare_backbone(entry(source), tmp_path, manifest)
    small = {"config.json", "tokenizer.json", "tokenizer_config.json"}
    named = kept == (
        "model.safetensors",
    )  # all others have, or get, an index, without which transformers looks no further
    expected = {*kept, *small, *([] if named else ["model.safetensors.index.json"])}
    assert set(read_json(manifest)["files"]) == expected
    assert {path.name for path in manifest.parent.iterdir()} == {*expected, "manifest.json"}


def test_only_a_second_copy_is_no_checkpoint(tmp_path):
    source = write(tmp_path / "source", "consolidated.safetensors")
    with pytest.raises(LensflowError, match=r"no \*.safetensors in .*; convert the checkpoint"):
        check_checkpoint(source)


def test_a_prepared_folder_is_a_source(tmp_path):
    source = write(tmp_path / "source", "model.safetensors")
    first, second = (tmp_path / name / "backbone/manifest.json" for name in ("first", "second"))
    prepare_backbone(entry(source), tmp_path, first)
    before = first.read_bytes()
    for _ in range(2):  # again, as after an edit
        prepare_backbone(entry(first.parent), tmp_path, second)
        assert first.read_bytes() == before
        assert "manifest.json" not in read_json(second)["files"]
        assert read_json(second)["weights"] == read_json(first)["weights"]
        assert not second.is_symlink()


def test_a_backbone_is_not_its_own_source(tmp_path):
    source = write(tmp_path / "results/b/backbone", "model.safetensors")
    with pytest.raises(LensflowError, match="is where this backbone's checkpoint is written; name another folder"):
        prepare_backbone(entry(source), tmp_path, source / "manifest.json")
    assert (source / "model.safetensors").is_file()  # and is still there


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "mxfp4"}},
        {"quantization": {"group_size": 64, "bits": 4}},  # MLX
        {"compression_config": {"format": "pack-quantized"}},
        {"model_type": "gemma3", "text_config": {"quantization_config": {"quant_method": "awq"}}},
    ],
)
def test_quantised_weights_are_refused(tmp_path, config):
    source = write(tmp_path / "source", "model.safetensors", **config)
    message = (
        r"^backbones.b.source.path: .*config.json: the weights are quantised .* cannot be trained; give the original"
    )
    with pytest.raises(LensflowError, match=message):
        check_source("b", entry(source), tmp_path)


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json", "hf_quant_config.json"])
def test_older_quantised_checkpoints_are_refused(tmp_path, name):
    source = write(tmp_path / "source", "model.safetensors")
    check_checkpoint(source)
    (source / name).write_text("{}")
    with pytest.raises(LensflowError, match=rf"the weights are quantised \({name}\)"):
        check_checkpoint(source)


@pytest.mark.parametrize("name", ["qweight", "weight_packed", "weight_scale_inv", "weight.absmax"])
def test_quantised_tensors_are_refused_though_no_file_says_so(tmp_path, name):
    source = write(tmp_path / "source", "model.safetensors", quantization_config=None)
    check_checkpoint(source)
    save_file({f"layers.0.mlp.{name}": np.zeros(2, np.int32)}, source / "model.safetensors")
    with pytest.raises(LensflowError, match=rf"model.safetensors: tensor 'layers.0.mlp.{name}' is quantised"):
        check_checkpoint(source)


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected"),
    [
        ({"max_position_embeddings": 2048}, {}, 2048),
        ({"n_positions": 1024}, {}, 1024),
        ({"max_position_embeddings": 131072}, {"model_max_length": 2048}, 2048),
        ({"max_position_embeddings": 2048}, {"model_max_length": 1000000000000000019884624838656}, 2048),
        ({"text_config": {"max_position_embeddings": 512}}, {}, 512),
        ({}, {}, None),
    ],
)
def test_positions(tmp_path, config, tokenizer, expected):
    source = write(tmp_path / "source", **config)
    (source / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    assert positions(source) == expected


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_a_damaged_file_of_a_folder_is_not_to_be_deleted(tmp_path, name):
    source = write(tmp_path / "source", *SHARDS, index=SHARDS)
    (source / name).write_text("{")
    message = rf"^backbones.b.source.path: .*/{name}: not valid JSON .*; fetch or write it again$"
    with pytest.raises(LensflowError, match=message):
        check_source("b", entry(source), tmp_path)


def test_an_index_that_is_not_of_its_files_is_refused(tmp_path):
    source = write(tmp_path / "source", *SHARDS, index=SHARDS)
    assert check_checkpoint(source) == {f"weight{number}": name for number, name in enumerate(SHARDS)}
    content = {"weight_map": {"weight0": SHARDS[0], "weight1": SHARDS[1], "weight2": SHARDS[1]}}
    (source / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(LensflowError, match=rf"puts tensor 'weight2' into {SHARDS[1]}, which lacks it; fetch both"):
        check_checkpoint(source)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    source = write(tmp_path / "source", "a.safetensors", "b.safetensors")
    check_checkpoint(source)
    save_file({"weight0": np.ones(2, np.float32)}, source / "b.safetensors")
    with pytest.raises(LensflowError, match=r"both a.safetensors and b.safetensors have tensor 'weight0', and no"):
        check_checkpoint(source)


def test_an_edited_template_is_noticed(tmp_path):
    source = write(tmp_path / "source", "model.safetensors")
    before = small_files_digest(source)
    (source / "notes.json").write_text("{}")
    assert small_files_digest(source) == before  # is not read
    seen = {before}
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer_config.json", "processor_config.json"):
        (source / name).write_text('{"eos_token_id": 1}')
        seen.add(small_files_digest(source))
    assert len(seen) == 5


# The hub


@pytest.fixture
def hub(tmp_path, monkeypatch) -> dict[str, Any]:
    """A hub with one repository, and what was asked of it."""
    asked: dict[str, Any] = {"folder": write(tmp_path / "hub", "model.safetensors"), "patterns": []}

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        asked["patterns"].append(allow_patterns)
        asked["revision"] = revision
        if "refusal" in asked:
            raise asked["refusal"]
        return str(asked["folder"])

    def listing(self: Any, name: str, *, revision: str, timeout: float) -> Any:
        if "refusal" in asked:
            raise asked["refusal"]
        names = [path.name for path in asked["folder"].iterdir()]
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names], sha=COMMIT)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", listing)
    return asked


@pytest.mark.parametrize(
    ("config", "prompt", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, {}, r"^backbones.b.source: .*the weights are quantised"),
        ({"model_type": "llava", "text_config": {}}, {}, r"^backbones.b.source: .*has a language model in it"),
        ({"model_type": "odd", "hidden_size": None}, {}, r"^backbones.b.source: .*has no num_hidden_layers or hidden"),
        ({}, {"format": "chat"}, "has no chat template; set prompt.format: plain"),
    ],
)
def test_an_unusable_repository_is_refused_before_its_weights_are_fetched(tmp_path, hub, config, prompt, message):
    check_prompt("b", entry(HUB), tmp_path)
    (hub["folder"] / "config.json").write_text(json.dumps(CONFIG | config))
    with pytest.raises(LensflowError, match=message):
        check_prompt("b", entry(HUB, **prompt), tmp_path)
    if config:
        with pytest.raises(LensflowError):
            prepare_backbone(entry(HUB, **prompt), tmp_path, tmp_path / "b/manifest.json")
    assert not any(name.endswith(".safetensors") for patterns in hub["patterns"] for name in patterns)


def test_only_the_weights_that_the_index_names_are_fetched(tmp_path, hub):
    hub["folder"] = write(tmp_path / "sharded", *SHARDS, "consolidated.safetensors", index=SHARDS)
    prepare_backbone(entry(HUB), tmp_path, tmp_path / "b/manifest.json")
    assert not any(name.endswith(".safetensors") for name in hub["patterns"][0])
    assert {name for name in hub["patterns"][-1] if name.endswith(".safetensors")} == set(SHARDS)


def test_a_branch_is_resolved_once_and_its_commit_is_written_down(tmp_path, hub, caplog):
    prepare_backbone(entry(HUB | {"revision": "main"}), tmp_path, tmp_path / "b/manifest.json")
    assert hub["revision"] == COMMIT
    assert json.loads((tmp_path / "b/manifest.json").read_text())["source"] == HUB | {"revision": COMMIT}
    assert f"some/model: main is {COMMIT} today; set source.revision to it" in caplog.text
    hub["refusal"] = OSError("Name or service not known")
    with pytest.raises(LensflowError, match=r"^some/model@main: cannot be fetched"):
        prepare_backbone(entry(HUB | {"revision": "main"}), tmp_path, tmp_path / "b/manifest.json")


@pytest.mark.parametrize("revision", ["v1.0", "0123abc", "refs/pr/1"])
def test_other_branches_and_short_commits_are_refused(revision):
    with pytest.raises(LensflowError, match=r"revision: must be a commit, 40 hexadecimal digits, or main"):
        parse(Backbone, entry(HUB).canonical() | {"source": HUB | {"revision": revision}}, "backbones.b")


def test_nothing_is_refused_where_the_hub_cannot_be_reached(tmp_path, hub):
    hub["refusal"] = OSError("Name or service not known")
    check_prompt("b", entry(HUB, format="chat"), tmp_path)
    assert hub["patterns"] == []
    hub["refusal"] = RepositoryNotFoundError("no", response=httpx2.Response(404, request=httpx2.Request("GET", "x:")))
    with pytest.raises(LensflowError, match="some/model@01234567: the hub has no such repository"):
        check_prompt("b", entry(HUB), tmp_path)


def test_a_repository_of_pickles_is_refused_by_its_listing(tmp_path, hub):
    (hub["folder"] / "model.safetensors").rename(hub["folder"] / "pytorch_model.bin")
    message = r"^backbones.b.source: some/model has neither .* nor model.safetensors \(pytorch_model.bin is not read\)"
    with pytest.raises(LensflowError, match=message):
        check_prompt("b", entry(HUB), tmp_path)
    assert hub["patterns"] == []


def test_a_repository_with_an_adapter_is_refused_by_its_listing(tmp_path, hub):
    (hub["folder"] / "adapter_config.json").write_text("{}")
    with pytest.raises(LensflowError, match=r"^backbones.b.source: some/model holds an adapter .*; merge it"):
        check_prompt("b", entry(HUB), tmp_path)


def test_a_folder_of_checkpoints_names_the_one_that_may_be_meant(tmp_path):
    """The hub's cache, and the folder of a trainer."""
    write(tmp_path / "runs" / "checkpoint-500")
    for folder in (tmp_path, tmp_path / "runs"):
        with pytest.raises(
            LensflowError, match=rf"^{folder}/config.json is missing; did you mean .*/checkpoint-500\?$"
        ):
            check_files(folder)
    with pytest.raises(
        LensflowError, match=r"/none is missing; name a folder with config.json, tokenizer.json and \*.saf"
    ):
        check_files(tmp_path / "none")


def test_a_folder_with_nothing_but_an_adapter_is_called_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LensflowError, match=r"holds an adapter \(adapter_config.json\); merge it into its model"):
        check_files(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "config.json",
            {"model_type": "llama", "dtype": "auto"},
            "dtype is 'auto', none of float32, .*; write the precision",
        ),
        ("config.json", {"model_type": "llama", "torch_dtype": "torch.float8"}, "torch_dtype is 'torch.float8', none"),
        ("generation_config.json", [], "generation_config.json: must be a mapping of keys to values"),
    ],
)
def test_settings_that_transformers_cannot_read_are_named(tmp_path, name, content, message):
    folder = write(tmp_path / "source", "model.safetensors")
    settings = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
    (folder / name).write_text(json.dumps(settings | content if isinstance(content, dict) else content))
    with pytest.raises(LensflowError, match=message):
        check_files(folder)


# Reasons


def test_the_reason_of_an_engine_is_shown():
    """vLLM's reason stands in the middle of pydantic's message, whose last line is a link."""
    from pydantic import BaseModel, field_validator

    class Model(BaseModel):
        length: int

        @field_validator("length")
        @classmethod
        def _short(cls, value: int) -> int:
            raise ValueError("User-specified max_model_len (4096) is greater than 2048")

    with pytest.raises(ValueError, match="max_model_len") as error:
        Model(length=4096)
    assert "visit" in str(error.value).splitlines()[-1]
    assert last_line(error.value) == "Value error, User-specified max_model_len (4096) is greater than 2048"
    assert last_line(RuntimeError("first\nlast\n")) == "last"
    assert last_line(RuntimeError()) == "RuntimeError"


def test_a_folders_template_is_rendered_by_check(tmp_path):
    source = write(tmp_path / "source", "model.safetensors")
    (source / "chat_template.jinja").write_text(TEMPLATE)
    check_prompt("b", entry(source, format="chat"), tmp_path)
    with pytest.raises(LensflowError, match=r"^backbones.b.prompt.system: "):
        check_prompt("b", entry(source, format="chat", system="Be brief."), tmp_path)
