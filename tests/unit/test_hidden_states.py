import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import tiny
from lensflow import hidden_states
from lensflow.decoders import batches_by_length, layers_of, load_decoder
from lensflow.errors import LensflowError

SEQUENCES = tiny.random_sequences(11, seed=5, longest=17)
NAMES = [f"text-{index}" for index in range(len(SEQUENCES))]


def extract(decoder, trainable=2, batch_tokens=40, sequences=SEQUENCES):
    return hidden_states.extract(decoder, sequences, trainable, batch_tokens, NAMES[: len(sequences)], "zh")


def alone(checkpoint, dtype=torch.float32):
    """Hidden states of each text run alone: (L+1, T, d) with the states before the final norm, and (T, d) after it."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval()
    tops = []
    layers_of(model.base_model)[-1].register_forward_hook(lambda module, args, output: tops.append(output))
    with torch.no_grad():
        for ids in SEQUENCES:
            states = model(torch.tensor([ids]), output_hidden_states=True).hidden_states
            yield torch.cat([*states[:-1], tops.pop()]), states[-1][0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_are_those_of_each_text_alone(checkpoint, family):
    found = extract(load_decoder(checkpoint(family)))
    start = 0
    for index, (layers, post_norm) in enumerate(alone(checkpoint(family))):
        stop = start + len(SEQUENCES[index])
        torch.testing.assert_close(found.last[:, index], layers[1:, -1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.last_post_norm[index], post_norm[-1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.tokens[start:stop], layers[tiny.LAYERS - 2], rtol=1e-5, atol=1e-5)
        start = stop
    assert found.lengths.tolist() == [len(ids) for ids in SEQUENCES]
    assert len(found.tokens) == start


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
def test_states_do_not_depend_on_the_batch(checkpoint, family):
    decoder = load_decoder(checkpoint(family))
    single, together = extract(decoder, batch_tokens=1), extract(decoder, batch_tokens=10_000)
    for name in ("last", "last_post_norm", "tokens", "lengths"):
        torch.testing.assert_close(getattr(single, name), getattr(together, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trainable", [1, tiny.LAYERS])
def test_token_states_enter_the_lowest_trainable_layer(checkpoint, trainable):
    tokens = extract(load_decoder(checkpoint("llama")), trainable).tokens
    wanted = torch.cat([layers[tiny.LAYERS - trainable] for layers, _ in alone(checkpoint("llama"))])
    torch.testing.assert_close(tokens, wanted, rtol=1e-5, atol=1e-5)


def test_without_trainable_layers_no_token_states_are_kept(checkpoint):
    assert extract(load_decoder(checkpoint("llama")), trainable=0).tokens.shape == (0, tiny.WIDTH)


def test_states_keep_the_precision_of_the_checkpoint(checkpoint):
    found = extract(load_decoder(checkpoint("llama", torch.bfloat16)))
    assert {found.last.dtype, found.last_post_norm.dtype, found.tokens.dtype} == {torch.bfloat16}
    wanted = torch.stack([post_norm[-1] for _, post_norm in alone(checkpoint("llama", torch.bfloat16), torch.bfloat16)])
    error = (found.last_post_norm.float() - wanted.float()).norm(dim=1) / wanted.float().norm(dim=1)
    assert error.max() < 0.03


def test_more_trainable_layers_than_there_are(checkpoint):
    with pytest.raises(LensflowError, match=r"extraction\.trainable_layers: 5 of a model that has 4"):
        extract(load_decoder(checkpoint("llama")), trainable=5)


@pytest.mark.parametrize("layer", [0, 2])
def test_a_state_that_is_not_finite_is_named(checkpoint, layer):
    decoder = load_decoder(checkpoint("llama"))
    turn = batches_by_length([len(ids) for ids in SEQUENCES], 1).index([3])
    calls = itertools.count()

    def spoil(module, args, output):
        if next(calls) == turn:
            output[0, -1, 7] = torch.inf

    layers_of(decoder)[layer].register_forward_hook(spoil)
    with pytest.raises(LensflowError, match=rf"^zh, text text-3: the state after layer {layer + 1} is not finite; .+$"):
        extract(decoder, batch_tokens=1)


def test_saved_states_are_read_back(checkpoint, tmp_path):
    found = extract(load_decoder(checkpoint("llama", torch.bfloat16)))
    hidden_states.save(tmp_path / "zh.safetensors", found, NAMES)
    read = hidden_states.load(tmp_path / "zh.safetensors")
    for name in ("last", "last_post_norm", "tokens", "lengths"):
        assert torch.equal(getattr(read, name), getattr(found, name))


def test_damaged_states_are_reported_in_one_line(tmp_path):
    path = tmp_path / "zh.safetensors"
    path.write_bytes(b"half")
    with pytest.raises(LensflowError, match=r"zh\.safetensors: cannot be read .+delete it and run again$"):
        hidden_states.load(path)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_batches_by_length(lengths, budget):
    batches = batches_by_length(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= budget
    flat = [lengths[index] for batch in batches for index in batch]
    assert flat == sorted(lengths, reverse=True)
    for batch in batches[:-1]:  # none ends before it is full
        assert (len(batch) + 1) * lengths[batch[0]] > budget
