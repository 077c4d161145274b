"""The target script's share of next-token probabilities against a loop."""

import pytest
import torch

from lensflow.mathematics.probabilities import target_script_share


def test_target_script_share_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(5, 50, generator=generator).softmax(dim=-1)
    kind = torch.randint(0, 3, (50,), generator=generator)  # neither, target, Latin
    share = target_script_share(probabilities, kind == 1, kind == 2)
    assert share.shape == (5,) and share.dtype == torch.float32
    for row, value in zip(probabilities.tolist(), share.tolist(), strict=True):
        on_target = sum(p for p, k in zip(row, kind.tolist(), strict=True) if k == 1)
        on_latin = sum(p for p, k in zip(row, kind.tolist(), strict=True) if k == 2)
        assert value == pytest.approx(on_target / (on_target + on_latin), rel=1e-5)


def test_target_script_share_at_its_ends():
    target, latin = torch.tensor([True, False, False]), torch.tensor([False, True, False])
    probabilities = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0.25, 0.25, 0.5], [0, 0, 1]], dtype=torch.bfloat16)
    share = target_script_share(probabilities, target, latin)
    assert share[:3].tolist() == [1.0, 0.0, 0.5]
    assert share[3].isnan()
