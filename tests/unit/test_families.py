"""Families that differ from Llama: fused experts, recurrent layers, other names, a text model inside a larger one."""

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from lensflow.artifacts.weights import WeightFiles
from lensflow.errors import LensflowError
from lensflow.methods.base import Lora
from lensflow.methods.finetuning import IGNORED, Example, adapters_of, packs, padded
from lensflow.models.conversion import Conversion
from lensflow.models.logit_bias import logit_biases
from lensflow.models.skeleton import Skeleton, check_decoder

spec = importlib.util.spec_from_file_location("families", Path(__file__).parents[2] / "performance" / "families.py")
assert spec is not None and spec.loader is not None
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Write a tiny random checkpoint of a family, once."""
    folders: dict[str, Path] = {}

    def build(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            families.build(family, folders[family])
        return folders[family]

    return build


SLOW = [
    "gpt2",
    "ctrl",
    "gpt_oss",
    "gemma3",
    "gemma4_text",
    "llama4_text",
    "qwen3_moe",
    "deepseek_v3",
    "smollm3",
    "glm4_moe",
]


@pytest.mark.parametrize("family", ["mixtral", "qwen3_5", *(pytest.param(f, marks=pytest.mark.slow) for f in SLOW)])
def test_every_step_gives_what_transformers_gives(family, tmp_path):
    result = families.Family(family, tmp_path).run()
    assert result["notes"] == {}
    assert result["steps"] == dict.fromkeys(families.STEPS, "ok")


@pytest.mark.parametrize("family", ["smollm3", "gpt2", "ctrl"])
def test_logit_biases_need_no_shorter_configuration(built, family):
    """Some families have other keys for their depth, and lists of that length."""
    shift = torch.randn(64)
    biases = logit_biases(built(family), {"sw": shift})
    model = AutoModelForCausalLM.from_pretrained(built(family), dtype=torch.float32)
    expected = model.get_output_embeddings().weight.detach() @ shift
    assert torch.allclose(biases["sw"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["mixtral", "gpt_neox", "gemma3"])
def test_conversion_goes_both_ways_bit_by_bit(built, family):
    folder = built(family)
    model, files = AutoModelForCausalLM.from_pretrained(folder), WeightFiles(folder)
    conversion = Conversion(model, files)
    state = model.state_dict()
    assert conversion.missing({name for name, _ in model.named_parameters()}) == []
    found = conversion.to_checkpoint(state)
    assert found.keys() == files.location.keys()
    for name, tensor in found.items():
        assert tensor.equal(files.read(name))
    back = Conversion(AutoModelForCausalLM.from_pretrained(folder), files).from_checkpoint(found)
    assert all(tensor.equal(state[key]) for key, tensor in back.items())


def test_experts_that_a_delta_lacks_are_read(built):
    """A delta holds only tensors that changed: perhaps one expert of those that transformers fuses into one tensor."""
    folder = built("mixtral")
    files, model = WeightFiles(folder), AutoModelForCausalLM.from_pretrained(folder)
    name = next(name for name in files.location if ".experts.1.w1." in name)
    changed = Conversion(model, files).from_checkpoint({name: files.read(name) + 1})
    (key, tensor), *others = changed.items()
    assert others == []
    fresh = AutoModelForCausalLM.from_pretrained(folder).state_dict()[key]
    difference = tensor - fresh
    assert difference[[0, 2, 3]].abs().max() == 0
    assert set((difference[1] * 1000).round().unique().tolist()) == {0.0, 1000.0}


@pytest.mark.parametrize(("family", "wanted"), [("llama", True), ("mixtral", True), ("opt", False), ("lfm2", False)])
def test_examples_are_packed_only_where_they_do_not_see_each_other(built, family, wanted):
    assert packs(AutoModelForCausalLM.from_pretrained(built(family)).eval()) == wanted


@pytest.mark.parametrize("family", ["mixtral", "gpt_neox", "gemma3", "lfm2", "llama4_text", "qwen3_5"])
def test_the_layers_with_adapters_are_found_without_weights(built, family):
    """Which layers can have adapters is tried on a model without weights: the same are found with weights."""
    model, skeleton = AutoModelForCausalLM.from_pretrained(built(family)), Skeleton(built(family))
    with_weights, without = (adapters_of(Lora(), one).to_dict() for one in (model, skeleton.model))
    assert with_weights == without


def test_chunks_of_a_sequence_keep_examples_from_being_packed(built):
    """Chunks of Llama 4 begin where the sequence does, not an example; the two that are tried are too short for it."""
    model = AutoModelForCausalLM.from_pretrained(built("llama4_text")).eval()
    assert model.config.attention_chunk_size > 100
    assert not packs(model)


def test_a_padded_batch_counts_no_pads():
    batch = padded([Example("a", [1, 7, 2], [False, False, True]), Example("b", [1, 8, 9, 2], [True] * 4)])
    assert batch["input_ids"].tolist() == [[1, 7, 2, 0], [1, 8, 9, 2]]
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 2, IGNORED], [IGNORED, 8, 9, 2]]


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_encoders_are_refused_in_one_line(built, family):
    with pytest.raises(LensflowError, match="a family of encoders or encoder-decoders; give a decoder-only") as error:
        check_decoder(built(family))
    assert "\n" not in str(error.value)


def test_layers_with_several_states_are_refused(built):
    from lensflow.models.loading import load_decoder
    from lensflow.models.taps import tap_layers

    decoder = load_decoder(built("hy_v4"))
    with (
        pytest.raises(LensflowError, match=r"model type 'hy_v4': layers pass on several states of a token"),
        tap_layers(decoder, [], [0]),
    ):
        decoder(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False)
