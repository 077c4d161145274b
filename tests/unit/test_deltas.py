import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lensflow.artifacts.checkpoint import verify
from lensflow.artifacts.export import copy_out, export
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.models.skeleton import load_top_layers
from lensflow.storage.digests import file_digest
from tests import tiny

IDS = torch.arange(3, 40).reshape(1, -1)


@pytest.fixture
def backbone(checkpoint, tmp_path):
    """Run `prepare_backbone` for a tiny checkpoint of some family and precision; give its manifest."""

    def prepare(family="llama", dtype=torch.float32):
        return tiny.backbone(checkpoint(family, dtype), tmp_path / "backbone" / "manifest.json")

    return prepare


def write_delta(manifest, path, layers=1):
    """Move the top layers by noise, as training would, and write them in float32."""
    decoder = load_top_layers(manifest.parent, layers, torch.float32).decoder
    generator = torch.Generator().manual_seed(layers)
    delta = {
        f"model.{name}": parameter.detach() + torch.randn(parameter.shape, generator=generator) / 10
        for name, parameter in decoder.named_parameters()
        if parameter.requires_grad
    }
    save_file(delta, path)
    return path


def load(folder, dtype="auto"):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@torch.no_grad()
def logits(model):
    return model(IDS).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_exported_model_is_the_trained_one(backbone, tmp_path, family, dtype):
    manifest = backbone(family, dtype)
    delta = write_delta(manifest, tmp_path / "delta.safetensors", layers=2)
    output = tmp_path / "checkpoint" / "manifest.json"
    export(manifest, delta, output)

    trained = load(manifest.parent)
    untouched = logits(trained)
    odd = trained.load_state_dict(load_file(delta), strict=False).unexpected_keys
    exported = load(output.parent)
    assert not odd and exported.dtype == dtype
    assert torch.equal(logits(exported), logits(trained))
    assert not torch.allclose(logits(exported), untouched, atol=0.1)
    tied = exported.lm_head.weight.data_ptr() == exported.get_input_embeddings().weight.data_ptr()
    assert tied == tiny.FAMILIES[family]["tie_word_embeddings"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_shards_with_trained_tensors_are_written(backbone, tmp_path, dtype):
    manifest = backbone("llama", dtype)
    delta = write_delta(manifest, tmp_path / "delta.safetensors")
    output = tmp_path / "checkpoint" / "manifest.json"
    export(manifest, delta, output)

    source, folder = manifest.parent, output.parent
    trained = load_file(delta)
    before, after = verify(manifest), verify(output)
    assert {path.name for path in folder.iterdir()} == {path.name for path in source.iterdir()}
    changed = set()
    for name in before["files"]:
        if name.endswith(".safetensors"):
            old, new = load_file(source / name), load_file(folder / name)
            assert old.keys() == new.keys()
            for key in old:
                assert new[key].dtype == dtype
                assert torch.equal(new[key], trained[key].to(dtype) if key in trained else old[key])
            if old.keys() & trained.keys():
                changed.add(name)
        assert (folder / name).is_symlink() == (name not in changed)
        assert after["files"][name] == {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
    assert 0 < len(changed) < len(before["files"])
    assert before["weights"] != after["weights"]
    assert {**before, "files": 0, "weights": 0} == {**after, "files": 0, "weights": 0}

    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {key: path.name for path in folder.glob("*.safetensors") for key in load_file(path)}
    elements = sum(tensor.nbytes for path in folder.glob("*.safetensors") for tensor in load_file(path).values())
    assert index["metadata"]["total_size"] == elements


def test_an_empty_delta_gives_the_backbone(backbone, tmp_path):
    manifest = backbone()
    save_file({}, tmp_path / "delta.safetensors")
    export(manifest, tmp_path / "delta.safetensors", tmp_path / "checkpoint" / "manifest.json")
    assert verify(tmp_path / "checkpoint" / "manifest.json") == verify(manifest)


def test_nothing_of_an_earlier_export_stays(backbone, tmp_path):
    manifest = backbone()
    output = tmp_path / "checkpoint" / "manifest.json"
    wide, narrow = (write_delta(manifest, tmp_path / f"{n}.safetensors", layers=n) for n in (3, 1))
    export(manifest, wide, output)
    (output.parent / "model-00099-of-00099.safetensors").write_bytes(b"stale")
    export(manifest, narrow, output)
    clean = tmp_path / "clean" / "manifest.json"
    export(manifest, narrow, clean)
    listing = {path.name: (path.is_symlink(), file_digest(path)) for path in output.parent.iterdir()}
    assert listing == {path.name: (path.is_symlink(), file_digest(path)) for path in clean.parent.iterdir()}


def test_a_delta_of_another_backbone(backbone, checkpoint, tmp_path):
    other = tiny.backbone(checkpoint("phi3"), tmp_path / "other" / "manifest.json")
    delta = write_delta(other, tmp_path / "delta.safetensors")
    message = r"^.*delta\.safetensors: tensor 'model.*_proj.weight' is not in .*; it belongs to another backbone$"
    with pytest.raises(LensflowError, match=message):
        export(backbone("llama"), delta, tmp_path / "checkpoint" / "manifest.json")


def test_a_delta_of_another_shape(backbone, tmp_path):
    manifest = backbone()
    output = tmp_path / "checkpoint" / "manifest.json"
    export(manifest, write_delta(manifest, tmp_path / "good.safetensors"), output)
    good = file_digest(output)
    name = "model.layers.3.mlp.up_proj.weight"
    save_file({name: torch.zeros(7, 5)}, tmp_path / "delta.safetensors")
    message = rf"^.*delta\.safetensors: tensor '{name}' has another shape than in .*; it belongs to another backbone$"
    with pytest.raises(LensflowError, match=message):
        export(manifest, tmp_path / "delta.safetensors", output)
    assert file_digest(output) == good  # what was there is still whole
    verify(output)


def test_the_backbone_is_never_overwritten(backbone, tmp_path):
    manifest = backbone()
    delta = write_delta(manifest, tmp_path / "delta.safetensors")
    with pytest.raises(LensflowError, match=r"^.*backbone: is the backbone's own folder; give another output$"):
        export(manifest, delta, manifest.parent / "new.json")
    verify(manifest)


def test_a_second_copy_of_the_weights_is_not_read(backbone, tmp_path):
    manifest = backbone()
    before = WeightFiles(manifest.parent).location
    save_file({"layers.3.attention.wq.weight": torch.zeros(2, 2)}, manifest.parent / "consolidated.safetensors")
    assert WeightFiles(manifest.parent).location == before
    load_top_layers(manifest.parent, 1, torch.float32)


def test_one_file_without_an_index(backbone, tmp_path):
    model = load(backbone().parent)
    model.save_pretrained(tmp_path / "single")
    assert not (tmp_path / "single" / "model.safetensors.index.json").exists()
    assert WeightFiles(tmp_path / "single").location.keys() == WeightFiles(backbone().parent).location.keys()


def test_a_copy_stands_on_its_own(backbone, tmp_path):
    manifest = backbone()
    output = tmp_path / "checkpoint" / "manifest.json"
    export(manifest, write_delta(manifest, tmp_path / "delta.safetensors"), output)
    wanted = logits(load(output.parent))
    copy_out(output.parent, tmp_path / "mine")
    shutil.rmtree(manifest.parent)
    shutil.rmtree(output.parent)
    assert not any(path.is_symlink() for path in (tmp_path / "mine").iterdir())
    assert torch.equal(logits(load(tmp_path / "mine")), wanted)
    with pytest.raises(LensflowError, match=r"mine: exists already; give a new folder$"):
        copy_out(output.parent, tmp_path / "mine")


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "checkpoint").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "checkpoint" / name).write_text("{}")

    def fails(source, target, **_):
        assert not (tmp_path / "mine").exists()
        shutil.copyfile(source, target)
        raise OSError("no space left")

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, fails, False, False))
    with pytest.raises(shutil.Error, match="no space left"):
        copy_out(tmp_path / "checkpoint", tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
