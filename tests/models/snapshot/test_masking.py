"""Masks of models of single snapshots: shares, policy, freshness, independence of the batch."""

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.interface import MaskDraw, TokenBatch
from models.snapshot.masking import Masked, MaskPolicy, MaskValues, hide_tokens, mask_tokens
from models.snapshot.raw import RawSpec
from tests.models.snapshots import alone, random_batch

SPEC = RawSpec()
DRAW = MaskDraw(seed=3, epoch=5)


def policy(share: float = 0.4, values: MaskValues = "published") -> MaskPolicy:
    return MaskPolicy(share=share, constant=0.8, random=0.1, kept=0.1, values=values)


@pytest.fixture
def mixed() -> TokenBatch:
    """Samples of 32, 15 (with partial patches) and 2 tokens."""
    return random_batch(SPEC, 4, [(3, 32, 16), (2, 18, 10), (1, 8, 4)])


@pytest.fixture
def large() -> TokenBatch:
    """150 samples of 256 tokens each: 15,300 masked ones."""
    return random_batch(SPEC, 2, [(150, 32, 32)])


def replaced(batch: TokenBatch, masked: Masked) -> torch.Tensor:
    return (masked.tokens != batch.tokens).any(dim=2)


@pytest.mark.parametrize("share", [0.01, 0.15, 0.4, 0.75, 1.0])
def test_the_share_is_met_exactly_among_valid_tokens(mixed: TokenBatch, share: float) -> None:
    masked = mask_tokens(mixed, DRAW, policy(share)).masked
    wanted = [policy(share).masked_tokens(int(length)) for length in mixed.lengths]
    assert masked.sum(dim=1).tolist() == wanted == [max(1, int(share * n)) for n in (32, 32, 32, 15, 15, 2)]
    beyond = torch.arange(masked.shape[1]) >= mixed.lengths[:, None]
    assert not (masked & beyond).any()


def test_target_tokens_of_the_specification_are_what_is_masked(mixed: TokenBatch) -> None:
    masked = mask_tokens(mixed, DRAW, SPEC.masking).masked
    scales = [(1, 32, 16)] * 3 + [(1, 18, 10)] * 2 + [(1, 8, 4)]
    assert masked.sum(dim=1).tolist() == [SPEC.target_tokens(scale, 4)[0] for scale in scales]


def test_policy_shows_constants_random_values_and_the_token_itself(large: TokenBatch) -> None:
    masked = mask_tokens(large, DRAW, policy())
    shown = masked.tokens[masked.masked]
    constant = (shown == 0.1).all(dim=1).float().mean()
    kept = (~replaced(large, masked))[masked.masked].float().mean()
    assert constant == pytest.approx(0.8, abs=0.01)
    assert kept == pytest.approx(0.1, abs=0.008)
    drawn = shown[~(shown == 0.1).all(dim=1) & replaced(large, masked)[masked.masked]]
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert drawn.var() == pytest.approx(1 / 12, abs=0.005)
    assert torch.equal(masked.tokens[~masked.masked], large.tokens[~masked.masked])


def test_values_of_the_paper_are_ones_and_normal(large: TokenBatch) -> None:
    masked = mask_tokens(large, DRAW, policy(values="paper"))
    shown = masked.tokens[masked.masked]
    ones = (shown == 1).all(dim=1)
    assert ones.float().mean() == pytest.approx(0.8, abs=0.01)
    drawn = shown[~ones & replaced(large, masked)[masked.masked]]
    assert drawn.mean() == pytest.approx(0, abs=0.05)
    assert drawn.std() == pytest.approx(1, abs=0.05)
    assert drawn.isfinite().all()


def test_places_are_masked_uniformly(large: TokenBatch) -> None:
    """Every token is masked about equally often, the last one too; the published code never masks it."""
    epochs = [mask_tokens(large, MaskDraw(seed=0, epoch=epoch), policy()).masked for epoch in range(8)]
    rate = torch.cat(epochs).float().mean(dim=0)
    assert rate.mean() == pytest.approx(102 / 256)
    # 1,200 draws a token: a standard deviation of 0.014, so 5 of them.
    assert (rate - 102 / 256).abs().max() < 0.07


def test_real_and_imaginary_parts_are_masked_together(large: TokenBatch) -> None:
    masked = mask_tokens(large, DRAW, policy(0.4))
    changed = masked.tokens != large.tokens
    places = large.tokens.shape[2] // 2
    assert torch.equal(changed[..., :places].any(dim=2), changed[..., places:].any(dim=2))


def test_masks_are_fresh_every_epoch_and_for_every_sample(large: TokenBatch) -> None:
    first, second = (mask_tokens(large, MaskDraw(seed=0, epoch=epoch), policy()).masked for epoch in (0, 1))
    # Two independent masks agree where both or neither mask: 0.4^2 + 0.6^2.
    assert (first == second).float().mean() == pytest.approx(0.52, abs=0.01)
    assert (first[:-1] == first[1:]).float().mean() == pytest.approx(0.52, abs=0.01)
    other = mask_tokens(large, MaskDraw(seed=1, epoch=0), policy()).masked
    assert (first == other).float().mean() == pytest.approx(0.52, abs=0.01)


@pytest.mark.parametrize("values", ["published", "paper"])
def test_masks_do_not_depend_on_the_batch(mixed: TokenBatch, values: MaskValues) -> None:
    together = mask_tokens(mixed, DRAW, policy(values=values))
    hidden = hide_tokens(mixed, 7, policy(values=values))
    for row, length in enumerate(mixed.lengths):
        single = alone(mixed, row)
        for batched, lone in (
            (together, mask_tokens(single, DRAW, policy(values=values))),
            (hidden, hide_tokens(single, 7, policy(values=values))),
        ):
            assert torch.equal(batched.masked[row, :length], lone.masked[0])
            assert torch.equal(batched.tokens[row, :length], lone.tokens[0])


def test_filled_places_stay_zero(mixed: TokenBatch) -> None:
    assert mixed.elements is not None
    for masked in (mask_tokens(mixed, DRAW, policy()), hide_tokens(mixed, 0, policy())):
        assert not masked.tokens[~mixed.elements].any()


def test_evaluation_hides_every_masked_token(large: TokenBatch) -> None:
    masked = hide_tokens(large, 0, policy())
    assert (masked.tokens[masked.masked] == 0.1).all()
    assert masked.masked.sum(dim=1).eq(102).all()
    assert torch.equal(masked.masked, hide_tokens(large, 0, policy()).masked)
    assert not torch.equal(masked.masked, hide_tokens(large, 1, policy()).masked)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"mask_share": 0.0}, "mask_share"),
        ({"mask_share": 1.5}, "mask_share"),
        ({"mask_share": float("nan")}, "mask_share"),
        ({"policy": (0.8, 0.1, 0.2)}, "policy"),
        ({"policy": (1.1, -0.1, 0.0)}, "policy"),
        ({"patches": ()}, "patches"),
        ({"patches": (4, 4)}, "patches"),
        ({"patches": (4, 0)}, "patches"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=field):
        RawSpec(**options)  # type: ignore[arg-type]


def test_global_generators_are_left_alone(mixed: TokenBatch) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    mask_tokens(mixed, DRAW, policy())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])
