"""Projections against full projection matrices, angles against planted ones."""

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles

from lensflow.mathematics.projections import coordinates, principal_angles, project


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def orthonormal(generator, *shape):
    return torch.linalg.qr(torch.randn(*shape, generator=generator, dtype=torch.float64)).Q


def test_project_equals_the_projection_matrix_row_by_row(generator):
    basis = orthonormal(generator, 12, 4)
    states = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64)
    matrix = (basis @ basis.T).numpy()
    for i in range(3):
        for j in range(5):
            np.testing.assert_allclose(project(states, basis)[i, j], matrix @ states[i, j].numpy(), atol=1e-13)


def test_project_layer_by_layer(generator):
    bases = orthonormal(generator, 3, 12, 4)
    states = torch.randn(3, 5, 12, generator=generator, dtype=torch.float64)
    separate = torch.stack([project(states[layer], bases[layer]) for layer in range(3)])
    torch.testing.assert_close(project(states, bases), separate)


def test_project_keeps_the_states_dtype(generator):
    assert project(torch.ones(2, 12, dtype=torch.float32), orthonormal(generator, 12, 4)).dtype == torch.float32


def test_coordinates_rebuild_the_projection(generator):
    basis = orthonormal(generator, 12, 4)
    states = torch.randn(5, 12, generator=generator, dtype=torch.float64)
    rebuilt = sum(coordinates(states, basis)[:, [k]] * basis[:, k] for k in range(4))
    torch.testing.assert_close(rebuilt, project(states, basis))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 0.3, np.pi / 2 - 1e-9, np.pi / 2])
def test_principal_angle_of_two_lines(generator, angle):
    frame = orthonormal(generator, 50, 2)
    line = 3.0 * frame[:, [0]]  # length must not matter
    turned = -np.cos(angle) * frame[:, [0]] - np.sin(angle) * frame[:, [1]]
    assert principal_angles(line, turned).tolist() == pytest.approx([angle], rel=0, abs=2e-15)


def test_principal_angles_of_planted_subspaces(generator):
    frame = orthonormal(generator, 50, 6)
    angles = torch.tensor([1.2, 0.5, 1e-9], dtype=torch.float64)  # largest first; scipy 1.17 gives 1e-8 for the last
    turned = frame[:, :3] * angles.cos() + frame[:, 3:] * angles.sin()
    mixed = turned @ torch.randn(3, 3, generator=generator, dtype=torch.float64)  # any basis of the same span
    torch.testing.assert_close(principal_angles(frame[:, :3], mixed), angles, rtol=0, atol=1e-14)
    torch.testing.assert_close(principal_angles(mixed, frame[:, :3]), angles, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("r", "s", "width"), [(1, 4, 20), (4, 2, 20), (5, 5, 7), (6, 3, 7)])
def test_principal_angles_equal_scipy_on_random_subspaces(generator, r, s, width):
    a = torch.randn(width, r, generator=generator, dtype=torch.float64)
    b = torch.randn(width, s, generator=generator, dtype=torch.float64)
    angles = principal_angles(a, b)
    np.testing.assert_allclose(angles, subspace_angles(a.numpy(), b.numpy()), atol=1e-7)
    torch.testing.assert_close(principal_angles(b, a), angles)


def test_contained_subspace_is_at_no_angle(generator):
    frame = orthonormal(generator, 50, 6)
    assert principal_angles(frame, frame[:, :2] - frame[:, 4:]).max() < 1e-14
