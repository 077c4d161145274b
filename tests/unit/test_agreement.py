"""What tests/gpu compares, on a CPU: that equal runs agree, and that what is not equal is noticed."""

import pytest
import torch

from lensflow.models.loading import CPU
from tests import agreement, tiny

SEQUENCES = tiny.random_sequences(6, seed=7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_states_of_either_way_agree_and_those_of_other_weights_do_not(checkpoint, dtype):
    whole, streamed = (
        agreement.states(checkpoint("llama", dtype), SEQUENCES, CPU, stream=stream) for stream in (False, True)
    )
    assert agreement.distance(streamed, whole) == 0
    other = agreement.states(checkpoint("mistral", dtype), SEQUENCES, CPU, stream=False)
    assert agreement.distance(other, whole) > 0.1


@pytest.mark.parametrize("precision", ["float32", "mixed"])
def test_terms_gradients_and_deltas_agree_and_those_of_another_method_do_not(stages, tmp_path, precision):
    ran, method = stages("llama", torch.bfloat16), agreement.lens(precision=precision)
    pushed = agreement.lens(precision=precision, **{"lambda": 2.0, "weights": {"push": 3.0}})
    terms, gradients = agreement.first_step(ran, method, CPU)
    assert all(float(value) > 0 for value in terms.values())
    again, other = agreement.first_step(ran, method, CPU), agreement.first_step(ran, pushed, CPU)
    assert agreement.distance(again[0], terms) == agreement.distance(again[1], gradients) == 0
    assert agreement.distance(other[0], terms) > 0.1
    assert agreement.distance(other[1], gradients) > 0.1

    losses, changes = agreement.trained(ran, method, CPU, tmp_path / "a")
    same, of_other = (
        agreement.trained(ran, method, CPU, tmp_path / "b"),
        agreement.trained(ran, pushed, CPU, tmp_path / "c"),
    )
    assert same[0] == losses and agreement.distance(same[1], changes) == 0
    assert of_other[0] != losses and agreement.distance(of_other[1], changes) > 0.1


def test_a_distance_needs_the_same_tensors():
    with pytest.raises(AssertionError):
        agreement.distance({"a": torch.ones(1)}, {"b": torch.ones(1)})
    with pytest.raises(AssertionError):
        agreement.distance({}, {})
