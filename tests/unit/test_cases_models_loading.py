"""Checkpoints with more or other tensors and keys than today's families have."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.methods.lens.training import TopStack
from lensflow.models.loading import attention_of, load_decoder, load_model
from lensflow.models.skeleton import check_all_weights, check_decoder, check_top_layers, load_top_layers
from lensflow.models.streaming import StreamedDecoder
from tests import tiny

IDS = [5, 9, 7, 200, 31]


def with_tensors(source: Path, folder: Path, more: dict[str, torch.Tensor]) -> Path:
    """Copy a checkpoint and add a shard of further tensors."""
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    save_file(more, folder / "model-more.safetensors")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(more, "model-more.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def states(decoder: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return decoder(input_ids=torch.tensor([IDS]), use_cache=False).last_hidden_state


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.{}.self_attn.rotary_emb.inv_freq",  # Llama-2
        "model.layers.{}.attention.masked_bias",  # GPT-NeoX
        "model.layers.{}.attention.bias",
    ],
)
def test_buffers_of_older_conversions_pass_through(checkpoint, tmp_path, name):
    plain = checkpoint("llama")
    extra = {name.format(layer): torch.ones(4) for layer in range(tiny.LAYERS)}
    folder = with_tensors(plain, tmp_path / "old", extra)
    top, expected = load_top_layers(folder, 2, torch.float32).decoder, load_top_layers(plain, 2, torch.float32).decoder
    assert top.state_dict().keys() == expected.state_dict().keys()  # so that a delta has no buffers
    for key, tensor in expected.state_dict().items():
        assert tensor.is_meta or top.state_dict()[key].equal(tensor)
    assert states(load_decoder(folder)).equal(states(load_decoder(plain)))


def test_layers_above_the_last_are_not_trained(checkpoint, tmp_path):
    """DeepSeek's and GLM's checkpoints keep layers of multi-token prediction behind the model's own."""
    plain = checkpoint("llama")
    extra = {f"model.layers.{tiny.LAYERS}.mlp.up_proj.weight": torch.ones(2, 2)}
    folder = with_tensors(plain, tmp_path / "more", extra)
    files = WeightFiles(folder)
    assert set(extra) <= set(files.location)
    load_top_layers(folder, 2, torch.float32)


@pytest.mark.parametrize(
    ("rename", "missing"),
    [
        (lambda name: None if name == "lm_head.weight" else name, "lm_head.weight"),
        (lambda name: None if name.endswith("layers.1.mlp.up_proj.weight") else name, "up_proj.weight"),
        (lambda name: f"policy.{name}", "lm_head.weight"),
    ],
)
def test_a_weight_that_is_missing_is_not_filled_with_random_numbers(checkpoint, tmp_path, rename, missing):
    source = checkpoint("llama")
    tensors = {name: tensor for path in source.glob("*.safetensors") for name, tensor in load_file(path).items()}
    renamed = {new: tensor for name, tensor in tensors.items() if (new := rename(name))}
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for load in (lambda: load_model(tmp_path, torch.float32, "sdpa"), lambda: load_decoder(tmp_path)):
        with pytest.raises(LensflowError, match=rf"weight '.*{missing}' is missing \(of \d+\); give a whole"):
            load()


def test_a_weight_of_another_shape_is_named(checkpoint, tmp_path):
    for path in checkpoint("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text()) | {"intermediate_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        LensflowError, match=r"weight '.*' has the shape \(.*48.*\), and config.json wants \(.*32.*\); "
    ):
        load_decoder(tmp_path)


def test_names_without_the_models_prefix_are_understood(checkpoint, tmp_path):
    source = checkpoint("llama")
    tensors = {name: tensor for path in source.glob("*.safetensors") for name, tensor in load_file(path).items()}
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    renamed = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert states(load_decoder(tmp_path)).equal(states(load_decoder(source)))


def test_other_tensors_are_still_refused(checkpoint, tmp_path):
    folder = with_tensors(checkpoint("llama"), tmp_path / "odd", {"model.layers.3.adapter.weight": torch.ones(2)})
    with pytest.raises(LensflowError, match=r"tensor 'model.layers.3.adapter.weight' does not fit"):
        load_top_layers(folder, 2, torch.float32)


def write_model(folder: Path, model_type: str, **keys: object) -> Path:
    config = AutoConfig.for_model(
        model_type,
        **{
            "vocab_size": tiny.VOCABULARY,
            "hidden_size": tiny.WIDTH,
            "intermediate_size": 48,
            "num_hidden_layers": tiny.LAYERS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
        }
        | keys,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) / 4)
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("count", [1, 2, 3])
def test_values_per_layer_are_those_of_the_top_layers(tmp_path, count):
    """SmolLM3 has no rotary embeddings in every fourth layer, as its configuration lists."""
    folder = write_model(tmp_path, "smollm3", no_rope_layers=[1, 1, 0, 1], tie_word_embeddings=False)
    whole = load_decoder(folder)
    entering = {}
    whole.layers[tiny.LAYERS - count].register_forward_pre_hook(
        lambda module, args, kwargs: entering.update(states=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    expected = states(whole)
    stack = TopStack(load_top_layers(folder, count, torch.float32), count, "post_norm")
    (found,) = stack.states([entering["states"][0]], [True])
    assert torch.allclose(found, expected[0], atol=1e-5)


def test_a_family_without_sdpa_takes_eager_and_says_so(tmp_path, caplog):
    folder = write_model(tmp_path, "gpt_oss", num_local_experts=4, num_experts_per_tok=2)
    said = "model type 'gpt_oss' has no sdpa attention; eager is taken"
    eager = states(load_decoder(folder, attention="eager"))
    assert said not in caplog.text
    assert states(load_decoder(folder)).equal(eager)
    assert said in caplog.text
    assert StreamedDecoder(folder, [IDS]).module.config._attn_implementation == "eager"


def test_a_family_with_sdpa_takes_what_is_asked_for(checkpoint, caplog):
    config = AutoConfig.from_pretrained(checkpoint("llama"))
    assert [attention_of(config, wanted) for wanted in ("sdpa", "eager")] == ["sdpa", "eager"]
    assert caplog.text == ""


def test_what_is_exported_has_the_extra_tensors(checkpoint, tmp_path):
    from lensflow.artifacts.export import export

    extra = {"model.layers.3.self_attn.rotary_emb.inv_freq": torch.arange(4.0)}
    folder = with_tensors(checkpoint("llama"), tmp_path / "old", extra)
    manifest = tiny.backbone(folder, tmp_path / "backbone/manifest.json")
    name = "model.layers.3.mlp.up_proj.weight"
    delta = {name: WeightFiles(folder).read(name) + 1}
    save_file(delta, tmp_path / "delta.safetensors")
    export(manifest, tmp_path / "delta.safetensors", tmp_path / "exported/manifest.json")
    exported = WeightFiles(tmp_path / "exported")
    assert exported.read(name).equal(delta[name])
    (kept,) = extra
    assert exported.read(kept).equal(extra[kept])
    with safe_open(tmp_path / "delta.safetensors", framework="pt") as file:
        assert list(load_file(tmp_path / "delta.safetensors")) == list(file.keys()) == [name]


# What check says without weights

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def test_families_that_train_are_let_through(checkpoint):
    for family in ("llama", "gemma3", "phi3", "qwen3", "mistral"):
        check_decoder(checkpoint(family))
        check_top_layers(checkpoint(family), 2)
        check_all_weights(checkpoint(family))


def test_encoders_are_refused(tmp_path):
    folder = write_model(tmp_path, "bert", head_dim=None)
    with pytest.raises(LensflowError, match=r"model type 'bert': a family of encoders"):
        check_decoder(folder)


def test_an_unknown_family_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "nobody"}')
    with pytest.raises(
        LensflowError, match=r"transformers cannot build this model \(.*nobody.*\); this family"
    ) as error:
        check_decoder(tmp_path)
    assert "\n" not in str(error.value)
