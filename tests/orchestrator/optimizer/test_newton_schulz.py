"""Newton-Schulz iterations against what they do to singular values."""

import pytest
import torch

from orchestrator.optimizer.newton_schulz import CUBIC, LINEAR, QUINTIC, STEPS, orthogonalised


@pytest.mark.parametrize("shape", [(1, 12, 12), (1, 8, 20), (3, 20, 8)])
def test_singular_vectors_stay_and_values_come_near_one(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, values, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    values = values / values.square().sum(dim=-1, keepdim=True).sqrt()
    for _ in range(STEPS):
        values = LINEAR * values + CUBIC * values**3 + QUINTIC * values**5
    found = orthogonalised(matrices, torch.float32)
    torch.testing.assert_close(found.double(), left @ torch.diag_embed(values) @ right, rtol=0, atol=1e-4)
    assert found.dtype == torch.float32
    assert torch.linalg.matrix_norm(found, ord=2).max() < 1.25
    if shape[1] != shape[2]:
        assert torch.linalg.svdvals(found).min() > 0.6


def test_the_size_of_a_gradient_does_not_count() -> None:
    matrix = torch.randn((1, 6, 9), generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(orthogonalised(1e-4 * matrix, torch.float32), orthogonalised(matrix, torch.float32))
    assert not orthogonalised(torch.zeros(1, 4, 4), torch.float32).any()


def test_bfloat16_comes_near() -> None:
    matrix = torch.randn((2, 16, 64), generator=torch.Generator().manual_seed(3))
    difference = orthogonalised(matrix, torch.bfloat16) - orthogonalised(matrix, torch.float32)
    assert 0 < difference.abs().max() < 0.05
