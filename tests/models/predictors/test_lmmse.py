"""The separable estimate against that of the whole covariance matrix, solved densely."""

import pytest
import torch
from torch import Tensor

from models.predictors.lmmse import LEAST_NOISE, Covariance, CovarianceSum, estimate

SHAPE = (4, 6, 4)


def drawn(count: int, seed: int) -> Tensor:
    """Channels that are correlated along slots and subcarriers."""
    random = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, dtype=torch.complex128, generator=random).cumsum(1).cumsum(2)


@pytest.fixture(scope="module")
def covariance() -> Covariance:
    total = CovarianceSum(SHAPE)
    total.add(drawn(30, 0))
    total.add(drawn(20, 1))
    return total.result(0.01)


def dense(channels: Tensor, known: Tensor, covariance: Tensor, noise: float) -> Tensor:
    """R_o (R_oo + noise I)^-1 y of one sample, all axes in one vector."""
    places = known.flatten()
    system = covariance[places][:, places] + noise * torch.eye(int(places.sum()))
    return (covariance[:, places] @ torch.linalg.solve(system, channels.flatten()[places])).view(channels.shape)


def test_the_covariance_is_the_mean_over_all_samples_and_a_white_one(covariance: Covariance) -> None:
    channels = torch.cat([drawn(30, 0), drawn(20, 1)])
    outer = torch.einsum("ntka,nska->ts", channels, channels.conj()) / (SHAPE[1] * SHAPE[2])
    torch.testing.assert_close(covariance.slots, (outer + torch.eye(SHAPE[0])) / 51)
    assert covariance.samples == 50


def test_noise_free_channels_are_loaded_a_little() -> None:
    total = CovarianceSum(SHAPE)
    total.add(drawn(1, 0))
    assert total.result(0.0).noise == LEAST_NOISE


def test_where_nothing_is_known_the_estimate_is_zero(covariance: Covariance) -> None:
    known = torch.zeros(1, *SHAPE, dtype=torch.bool)
    assert not estimate(drawn(1, 7), known, covariance).any()
    known[..., 1, 0] = True
    assert not estimate(drawn(1, 7), known, covariance)[..., 1:].any()


@pytest.mark.parametrize("places", [(slice(0, 2),), (slice(None), slice(1, 4))], ids=["slots", "subcarriers"])
def test_from_whole_slots_or_subcarriers(covariance: Covariance, places: tuple[slice, ...]) -> None:
    channels = drawn(5, 2)
    known = torch.zeros(5, *SHAPE, dtype=torch.bool)
    known[(slice(None), *places)] = True
    whole = torch.kron(torch.kron(covariance.slots, covariance.subcarriers), covariance.antennas)
    expected = torch.stack([dense(*pair, whole, 0.01) for pair in zip(channels, known, strict=True)])
    torch.testing.assert_close(estimate(channels, known, covariance).to(torch.complex128), expected, atol=1e-5, rtol=0)


def test_from_places_of_any_kind_each_antenna_on_its_own(covariance: Covariance) -> None:
    channels = drawn(40, 3)
    known = (torch.rand(40, *SHAPE[:2], 2, generator=torch.Generator().manual_seed(4)) < 0.3).repeat_interleave(2, 3)
    known[0, :, :, 2:] = False
    part = torch.kron(covariance.slots, covariance.subcarriers)
    expected = torch.stack([
        torch.stack([dense(sample[..., antenna], places[..., antenna], part, 0.01) for antenna in range(4)], dim=-1)
        for sample, places in zip(channels, known, strict=True)
    ])  # fmt: skip
    found = estimate(channels, known, covariance)
    torch.testing.assert_close(found.to(torch.complex128), expected, atol=1e-5, rtol=0)
    assert not found[0, :, :, 2:].any()


def test_what_is_not_known_is_not_seen(covariance: Covariance) -> None:
    channels, known = drawn(3, 5), torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(6)) < 0.4
    spoilt = torch.where(known, channels, 1e6)
    assert torch.equal(estimate(channels, known, covariance), estimate(spoilt, known, covariance))
