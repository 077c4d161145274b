"""Control vectors of llama.cpp: which edits are ones, what the files hold, and what llama.cpp computes with them."""

import ctypes

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter
from transformers import AutoModelForCausalLM

from lensflow.artifacts.interventions import ANY, BlockEdit, Intervention
from lensflow.models.control_vectors import control_vectors, name_of, write
from lensflow.models.engines.hf import TransformersEngine
from lensflow.models.tokenizer import PromptTokenizer
from lensflow.schema.backbone import PlainPrompt
from tests import tiny

generator = torch.Generator().manual_seed(4)
VECTOR, OTHER = torch.randn(2, tiny.WIDTH, generator=generator)
BASIS = torch.linalg.qr(torch.randn(tiny.WIDTH, 2, generator=generator)).Q
ADD = BlockEdit(1, "add", VECTOR, strength=0.5)
PAIR = ("en", "sw")
MANIFEST = {"model_type": "llama", "layers": tiny.LAYERS}
FOUND = Intervention(blocks={PAIR: [ADD, BlockEdit(3, "add", OTHER), BlockEdit(3, "add", VECTOR, strength=-2.0)]})


@pytest.mark.parametrize(
    "edit",
    [
        BlockEdit(0, "add", VECTOR),
        BlockEdit(1, "remove", basis=BASIS),
        BlockEdit(1, "add", VECTOR, positions="generated"),
        BlockEdit(1, "add", VECTOR, restore_norm=True),
    ],
)
def test_other_edits_are_no_control_vectors(edit):
    blocks = {PAIR: [ADD, edit], ("sw", "sw"): [ADD], ANY: [ADD], ("zh", "zh"): [ADD]}
    assert list(control_vectors(Intervention(blocks=blocks))) == [("sw", "sw"), ("zh", "zh")]
    assert list(control_vectors(Intervention(blocks=blocks, constrained=("zh",)))) == [("sw", "sw")]
    assert list(control_vectors(Intervention(blocks=blocks, shifts={"sw": VECTOR}))) == [("zh", "zh")]
    assert control_vectors(Intervention(blocks=blocks, removed=BASIS)) == {}


def test_what_is_written_is_read(tmp_path):
    write(control_vectors(FOUND), MANIFEST, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["control_vector.en.sw.gguf"]
    reader = GGUFReader(tmp_path / name_of(PAIR))
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == tiny.LAYERS
    held = {tensor.name: torch.tensor(tensor.data) for tensor in reader.tensors}
    assert held.keys() == {"direction.1", "direction.3"}
    assert torch.equal(held["direction.1"], 0.5 * VECTOR)
    assert torch.allclose(held["direction.3"], OTHER - 2 * VECTOR)


def as_gguf(folder, output):
    """Write a tiny Llama, in float32 and without a vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config, weights = model.config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer = GGUFWriter(output, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")

    def rotated(weight, heads):  # llama.cpp pairs neighbours, transformers the two halves of a head
        halves = weight.reshape(heads, 2, config.head_dim // 2, -1)
        return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))

    outside = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for name, ours in outside.items():
        writer.add_tensor(f"{name}.weight", weights[f"{ours}.weight"])
    blocks = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    blocks |= {f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")}
    blocks |= {f"attn_{part}": f"self_attn.{part[0]}_proj" for part in ("q", "k", "v", "output")}
    for layer in range(config.num_hidden_layers):
        for name, ours in blocks.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name)
            writer.add_tensor(f"blk.{layer}.{name}.weight", rotated(weight, heads) if heads else weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_llama_cpp_computes_the_edit(checkpoint, tmp_path):
    """The file's vectors, given to llama.cpp as its own loader does: block 1 first, zeros where there is none."""
    llama = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    folder, ids = checkpoint("llama"), tiny.random_sequences(1, seed=9)[0] * 2
    as_gguf(folder, tmp_path / "tiny.gguf")
    write(control_vectors(FOUND), MANIFEST, tmp_path)
    data = np.zeros((tiny.LAYERS - 1, tiny.WIDTH), dtype=np.float32)
    for tensor in GGUFReader(tmp_path / name_of(PAIR)).tensors:
        data[int(tensor.name.split(".")[1]) - 1] = tensor.data

    llama.llama_backend_init()
    parameters = llama.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(tmp_path / "tiny.gguf").encode(), parameters)
    context = llama.llama_init_from_model(model, llama.llama_context_default_params())

    def logits():
        llama.llama_memory_clear(llama.llama_get_memory(context), True)
        tokens = (llama.llama_token * len(ids))(*ids)
        assert llama.llama_decode(context, llama.llama_batch_get_one(tokens, len(ids))) == 0
        return np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (tiny.VOCABULARY,)).copy()

    plain = logits()
    pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    assert llama.llama_set_adapter_cvec(context, pointer, data.size, tiny.WIDTH, 1, tiny.LAYERS - 1) == 0
    edited = logits()

    engine = TransformersEngine(folder, "float32", PromptTokenizer(folder, PlainPrompt(format="plain")))

    def expected():
        with torch.no_grad():
            return engine.model(torch.tensor([ids])).logits[0, -1].numpy()

    assert np.allclose(plain, expected(), atol=2e-2)
    with engine.edited(FOUND.edit("sw", "en")):
        assert np.allclose(edited, expected(), atol=2e-2)
    assert np.abs(edited - plain).max() > 0.5
