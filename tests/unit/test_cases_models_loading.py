"""Checkpoints with more or other tensors and keys than today's families have."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from lensflow.artifacts.interventions import Intervention
from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.methods.lens.training import TopStack
from lensflow.models.loading import attention_of, load_decoder, load_model
from lensflow.models.skeleton import check_adapters, check_decoder, check_layers, check_trainable, load_top_layers
from lensflow.models.streaming import StreamedDecoder
from lensflow.models.usable import check_numbers, check_tensors, check_tokens, hints_of
from lensflow.schema.backbone import ChatPrompt, PlainPrompt, Resources
from lensflow.schema.decoding import Decoding
from lensflow.schema.stages import Answering
from lensflow.stages.answer import Session, Speaker
from tests import tiny

Tensors = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None
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
        LensflowError, match=r"weight '.*' has the shape \(.*48.*\), but config.json requires \(.*32.*\); "
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
        check_trainable(checkpoint(family), 2)
        check_layers(checkpoint(family), alone=True)
        check_adapters(checkpoint(family))
        assert check_tensors(checkpoint(family)) == []
        check_tokens(checkpoint(family), PlainPrompt(format="plain"))
        check_numbers(checkpoint(family))


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


def test_a_model_that_rates_texts_is_refused(checkpoint, tmp_path):
    """Its output layer is another one; where embeddings are tied, nothing would be missing."""
    folder = changed(checkpoint("qwen3"), tmp_path / "rating", architectures=["Qwen3ForSequenceClassification"])
    with pytest.raises(LensflowError, match=r"Qwen3ForSequenceClassification: a model that classifies or rates texts"):
        check_decoder(folder)


@pytest.mark.parametrize("family", ["deepseek_v4", "qwen4_exp_text"])
def test_layers_that_hand_on_several_states_are_refused_without_weights(families, family):
    with pytest.raises(LensflowError, match="layers pass on several states of a token; this family is not supported"):
        check_layers(families(family), alone=False)


@pytest.mark.parametrize("family", ["zaya", "xlstm"])
def test_layers_that_need_those_below_them_are_refused_where_one_runs_alone(families, family):
    check_layers(families(family), alone=False)
    for check in (lambda: check_layers(families(family), alone=True), lambda: check_trainable(families(family), 2)):
        with pytest.raises(LensflowError, match="layers pass more than their states to the next layer"):
            check()


@pytest.mark.parametrize("family", ["bloom", "gptj", "falcon"])
def test_layers_that_return_tuples_are_fine(families, family):
    for alone in (False, True):
        check_layers(families(family), alone)


def test_layers_that_share_weights_have_no_adapters(families):
    with pytest.raises(LensflowError, match="layers share weights; set lora: null"):
        check_adapters(families("zamba2"))


# What check says of tensors


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    """Write a tiny random checkpoint of a family, once."""
    from performance.families import build

    folders: dict[str, Path] = {}

    def built(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            build(family, folders[family])
        return folders[family]

    return built


def changed(source: Path, folder: Path, tensors: Tensors = None, **config: object) -> Path:
    """Copy a checkpoint with other tensors, in one file, or keys of config.json."""
    shutil.copytree(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if tensors is not None:
        found = {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
        for shard in folder.glob("*.safetensors*"):
            shard.unlink()
        save_file(tensors(found), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


UP = "model.layers.1.mlp.up_proj.weight"  # of a layer that Lens does not train


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (
            lambda t: {k: v for k, v in t.items() if k != UP},
            {},
            rf"weight '{UP}' is missing \(of 1\); give all tensors",
        ),
        (lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"}, {}, r"weight 'lm_head.weight' is missing"),
        (
            lambda t: {f"module.{k}": v for k, v in t.items()},
            {},
            r"weight 'lm_head.weight' is missing \(of \d+\); 'module.lm_head.weight' is there, which nothing reads",
        ),
        (
            None,
            {"num_hidden_layers": 6},
            r"weight 'model.layers.4.* is missing \(of \d+\); give all tensors of a model",
        ),
        (None, {"model_type": "qwen2"}, r"weight 'model.layers.0.self_attn.k_proj.bias' is missing"),
        (
            lambda t: t | {UP: t[UP].to(torch.float8_e4m3fn)},
            {},
            rf"tensor '{UP}' is of type F8_E4M3; give the original",
        ),
        (lambda t: t | {UP: t[UP].to(torch.int8)}, {}, rf"tensor '{UP}' is of type I8; give the original checkpoint"),
        (
            lambda t: t | {UP: t[UP][:5].clone()},
            {},
            rf"weight '{UP}' has the shape \(5, 32\), but config.json requires",
        ),
        (
            lambda t: t | {"model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(2, 32)},
            {},
            r"tensor 'model.layers.1.self_attn.q_proj.lora_A.weight' is of an adapter; merge it",
        ),
        (
            lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.ones(32)},
            {},
            r"tensor 'model.layers.0.self_attn.q_proj.bias' would not be used by a model of type 'llama'",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_family_are_refused(checkpoint, tmp_path, tensors, config, message):
    folder = changed(checkpoint("llama"), tmp_path / "odd", tensors, **config)
    with pytest.raises(LensflowError, match=message) as error:
        check_tensors(folder)
    assert "\n" not in str(error.value)


def test_what_nothing_reads_is_named(checkpoint, tmp_path):
    more = {"v_head.summary.weight": torch.ones(1, 32), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    assert check_tensors(changed(checkpoint("llama"), tmp_path / "more", lambda t: t | more)) == [
        "v_head.summary.weight"
    ]


def test_an_index_is_enough_to_see_what_is_missing(checkpoint, tmp_path):
    """As check has it of the hub, before anything is fetched."""
    for name in ("config.json", "model.safetensors.index.json"):
        shutil.copy(checkpoint("llama") / name, tmp_path)
    assert check_tensors(tmp_path) == []
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    del index["weight_map"][UP]
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(LensflowError, match=rf"weight '{UP}' is missing"):
        check_tensors(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused(checkpoint, tmp_path, value, dtype):
    def spoil(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        tensors[UP] = tensors[UP].to(dtype)
        tensors[UP][3, 5] = value
        return tensors

    with pytest.raises(LensflowError, match=rf"weight '{UP}' holds NaN or infinite numbers; give"):
        check_numbers(changed(checkpoint("llama"), tmp_path / "nan", spoil))


def test_embeddings_that_are_not_tied_though_config_says_so_are_refused(checkpoint, tmp_path):
    """transformers would not tie them, vLLM would."""
    folder = changed(checkpoint("llama"), tmp_path / "tied", tie_word_embeddings=True)
    check_tensors(folder)
    with pytest.raises(LensflowError, match=r"'lm_head.weight' and 'model.embed_tokens.weight' are one tensor"):
        check_numbers(folder)
    same = changed(
        checkpoint("llama"),
        tmp_path / "same",
        lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()},
        tie_word_embeddings=True,
    )
    check_numbers(same)


def test_two_copies_of_the_weights_must_be_the_same(checkpoint, tmp_path):
    """transformers would read model.safetensors, vLLM what the index names."""
    folder = changed(checkpoint("llama"), tmp_path / "two")
    found = {name: tensor for shard in folder.glob("*.safetensors") for name, tensor in load_file(shard).items()}
    save_file(found, folder / "model.safetensors")
    check_numbers(folder)
    save_file(found | {UP: found[UP] + 1}, folder / "model.safetensors")
    with pytest.raises(LensflowError, match=rf"hold different numbers for '{UP}'; remove one of these copies"):
        check_numbers(folder)


def test_a_tensor_in_two_shards_must_be_the_same(checkpoint, tmp_path):
    """The index names one of them; vLLM takes the last that it reads."""
    folder = changed(checkpoint("llama"), tmp_path / "two")
    shards = sorted(folder.glob("*.safetensors"))
    found = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    other = next(shard for shard in shards if UP not in load_file(shard))
    tensors = load_file(other)
    save_file(tensors | {UP: found[UP]}, other)
    check_numbers(folder)
    save_file(tensors | {UP: found[UP] + 1}, other)
    with pytest.raises(LensflowError, match=rf"{other.name} and .*, which .*, hold different numbers for '{UP}'"):
        check_numbers(folder)


@pytest.mark.parametrize("key", ["return_dict", "output_attentions", "output_hidden_states", "torchscript"])
def test_what_a_model_returns_is_not_its_own_choice(checkpoint, tmp_path, key):
    """Checkpoints that were saved in the middle of an analysis have such keys."""
    folder = changed(checkpoint("llama"), tmp_path / "odd", **{key: key != "return_dict"})
    assert states(load_decoder(folder)).equal(states(load_decoder(checkpoint("llama"))))
    check_layers(folder, alone=True)
    check_trainable(folder, 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", {}, r"tokenizer.json: cannot be read \(.*\); fetch or write it again"),
        (
            "tokenizer_config.json",
            {"eos_token": "<nobody>"},
            r"eos_token '<nobody>' of tokenizer_config.json is not a token",
        ),
        (
            "generation_config.json",
            {"eos_token_id": "</s>"},
            r"end token '</s>' is not among the model's 259 tokens; correct",
        ),
        (
            "generation_config.json",
            {"eos_token_id": [[2]]},
            r"end token \[2\] is not among the model's 259 tokens; correct",
        ),
        (
            "generation_config.json",
            {"eos_token_id": [2, 259]},
            r"end token 259 is not among the model's 259 tokens; correct",
        ),
        ("tokenizer_config.json", {"bos_token": "<bos>"}, r"no token ends an answer; name eos_token"),
    ],
)
def test_tokens_that_do_not_fit_the_model_are_refused(checkpoint, tmp_path, name, content, message):
    folder = changed(checkpoint("llama"), tmp_path / "odd", eos_token_id=None)
    for other in ("generation_config.json", "special_tokens_map.json"):
        (folder / other).unlink(missing_ok=True)
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(LensflowError, match=message):
        check_tokens(folder, PlainPrompt(format="plain"))


def test_a_token_of_the_template_that_the_model_lacks_is_refused(checkpoint, tmp_path):
    folder = changed(checkpoint("llama"), tmp_path / "odd")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    check_tokens(folder, PlainPrompt(format="plain"))
    with pytest.raises(LensflowError, match=r"token '<\|turn\|>' has the id 259, and the model has 259 embeddings"):
        check_tokens(folder, PlainPrompt(format="plain", template="{prompt}<|turn|>"))


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_embeddings_of_zeros_are_refused(checkpoint, tmp_path, name):
    """A file whose download stopped can have its whole length already."""
    folder = changed(checkpoint("llama"), tmp_path / "zero", lambda t: t | {name: torch.zeros_like(t[name])})
    with pytest.raises(LensflowError, match=rf"weight '{name}' is all zeros, .*; fetch it again"):
        check_numbers(folder)


@pytest.mark.parametrize(
    ("keys", "hint"),
    [
        ({"rope_thetaa": 5e5}, "nothing reads 'rope_thetaa' of config.json; did you mean 'rope_theta'?"),
        ({"num_hidden_layer": 4}, None),  # the right key is there as well
        ({"my_note": "hello", "torch_dtype": "float32"}, None),
    ],
)
def test_a_key_that_nothing_reads_and_looks_misspelt_is_a_hint(checkpoint, tmp_path, keys, hint):
    folder = changed(checkpoint("llama"), tmp_path / "keys", **keys)
    if hint:
        settings = json.loads((folder / "config.json").read_text())
        settings.pop("rope_parameters")
        (folder / "config.json").write_text(json.dumps(settings))
    assert list(hints_of(folder, PlainPrompt(format="plain"))) == ([hint] if hint else [])


def test_a_plain_template_that_ends_in_a_space_is_a_hint(checkpoint):
    (hint,) = hints_of(checkpoint("llama"), PlainPrompt(format="plain", template="Q: {prompt} A: "))
    assert hint.startswith("prompt.template ends in a space")
    with pytest.raises(ValueError, match=r"\{prompt\} exactly once, in single braces"):
        PlainPrompt(format="plain", template="{{prompt}}")


def test_a_template_that_does_not_begin_the_answer_is_a_hint(checkpoint, tmp_path):
    folder = changed(checkpoint("llama"), tmp_path / "chat")
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    for beginning, hints in (("", ["the chat template writes '<assistant>' before"]), ("<assistant>", [])):
        (folder / "chat_template.jinja").write_text(
            turns + "{% if add_generation_prompt %}" + beginning + "{% endif %}"
        )
        found = list(hints_of(folder, ChatPrompt(format="chat")))
        assert [hint[: len(start)] for hint, start in zip(found, hints, strict=True)] == hints


def test_an_answer_that_ends_in_a_part_of_a_word_is_a_hint(checkpoint, tmp_path):
    """An id of another tokenizer: answers would end at the first such letter."""
    folder = changed(checkpoint("llama"), tmp_path / "odd")
    for ids, hints in (([2, 100], ["answers end at token 100, '¤', which is a part of words; correct"]), ([2, 1], [])):
        (folder / "generation_config.json").unlink(missing_ok=True)
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        found = list(hints_of(folder, PlainPrompt(format="plain")))
        assert [hint[: len(start)] for hint, start in zip(found, hints, strict=True)] == hints


def test_a_template_whose_end_is_no_token_is_a_hint(checkpoint, tmp_path):
    """ChatML with the tokenizer of another model: no answer would end."""
    folder = changed(checkpoint("llama"), tmp_path / "chat")
    turns = "{% for m in messages %}[{{ m.role }}]{{ m.content }}END{% endfor %}[assistant]"
    for end, hints in (
        ("<|im_end|>", ["the chat template ends an answer with '<|im_end|>', which is no"]),
        ("<eos>", []),
    ):
        (folder / "chat_template.jinja").write_text(turns.replace("END", end))
        found = list(hints_of(folder, ChatPrompt(format="chat")))
        assert [hint[: len(start)] for hint, start in zip(found, hints, strict=True)] == hints


def test_a_template_of_one_turn_is_a_hint(checkpoint, tmp_path):
    folder = changed(checkpoint("llama"), tmp_path / "chat")
    for text in ("{{ messages[-1].content }}", "{{ messages[0].content }}"):
        (folder / "chat_template.jinja").write_text(text)
        (hint,) = hints_of(folder, ChatPrompt(format="chat"))
        assert hint.startswith("the chat template leaves out turns")
    (folder / "chat_template.jinja").write_text(
        "{% if messages | length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}"
    )
    assert list(hints_of(folder, ChatPrompt(format="chat"))) == []


def test_what_is_no_number_is_no_answer(checkpoint, tmp_path):
    """The first of equal choices would be the likeliest, and the first token of the vocabulary would be said."""
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {n: w for path in checkpoint("llama").glob("*.safetensors") for n, w in load_file(path).items()}
    save_file(
        tensors | {"lm_head.weight": torch.full_like(tensors["lm_head.weight"], 3e38)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(checkpoint("llama") / name, folder)
    check_numbers(folder)  # all of its weights are numbers
    manifest = tiny.backbone(folder, tmp_path / "backbone/manifest.json")
    config = Answering.model_validate(
        {"prompt": {"format": "plain"}, "evaluation": {"engine": "hf"}, "cells": [], "checkpoints": {}}
    )
    speaker = Speaker(Session(manifest, config, Resources()), None, Intervention(), "en")
    with pytest.raises(LensflowError, match=r": the model computes NaN in float32; set evaluation\.dtype: float32, or"):
        speaker.loglikelihoods([(IDS, [7]), (IDS, [9])])
    with pytest.raises(LensflowError, match=r"^the model computes NaN; "):
        speaker.generate([IDS], Decoding(max_new_tokens=2))


def test_a_checkpoint_of_more_layers_than_its_config_says_is_refused(checkpoint, tmp_path):
    """transformers would run a model without its top."""
    folder = tmp_path / "cut"
    shutil.copytree(checkpoint("llama"), folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_hidden_layers": tiny.LAYERS - 1}
    (folder / "config.json").write_text(json.dumps(config))
    top = tiny.LAYERS - 1
    with pytest.raises(
        LensflowError, match=rf"'model\.layers\.{top}\..*' belongs to a layer .*: num_hidden_layers is {top}; "
    ):
        check_tensors(folder)


def test_a_layer_of_multi_token_prediction_may_stand_above_the_last(checkpoint, tmp_path):
    plain = checkpoint("llama")
    files, prefix = WeightFiles(plain), f"model.layers.{tiny.LAYERS - 1}."
    above = {n.replace(prefix, f"model.layers.{tiny.LAYERS}."): files.read(n) for n in files.location if prefix in n}
    extra = {f"model.layers.{tiny.LAYERS}.eh_proj.weight": torch.ones(2, 2)}
    assert set(check_tensors(with_tensors(plain, tmp_path / "more", above | extra))) == {*above, *extra}
