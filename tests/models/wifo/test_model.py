"""WiFo: its sizes, its error, and the positions that its published code gives the encoder."""

import pytest
import torch

from models.interface import MaskDraw, ModelSpec, PretrainingModel
from models.layers.losses import token_losses
from models.layers.masking import TASKS
from models.layers.parameters import count_parameters
from models.layers.positions import sine_cosine, stf_widths, token_positions
from models.registry import make_spec
from models.wifo.model import Wifo
from tests.models.batches import SCALES, make_batch
from tests.models.learning import losses_by_heart

DRAW = MaskDraw(seed=3, epoch=1)


@pytest.fixture(scope="module", params=["stf", "published"])
def spec(request: pytest.FixtureRequest) -> ModelSpec:
    return make_spec("wifo", {"size": "tiny", "position": request.param})


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> PretrainingModel:
    return spec.build(seed=1)


@pytest.mark.parametrize(
    ("size", "count", "millions"),
    [
        ("tiny", 355_776, 0.3),
        ("little", 1_374_976, 1.4),
        ("small", 5_404_032, 5.5),
        ("base", 21_424_768, 21.6),
        ("large", 85_846_400, 86.1),
    ],
)
def test_parameter_counts(size: str, count: int, millions: float) -> None:
    """To the unit, and to Table 2 of the paper, whose network also has tables of positions that it does not read."""
    assert count_parameters(make_spec("wifo", {"size": size}).build(seed=0)) == count
    assert abs(count / 1e6 - millions) < max(0.06, 0.02 * millions)


@pytest.mark.parametrize(
    ("width", "shares"),
    [(64, (22, 22, 20)), (128, (42, 42, 44)), (256, (86, 86, 84)), (512, (170, 170, 172)), (768, (256, 256, 256))],
)
def test_positions_share_the_features_as_published(width: int, shares: tuple[int, int, int]) -> None:
    assert stf_widths(width) == shares


def test_positions_are_those_of_slot_antenna_and_subcarrier() -> None:
    """Token 2 * (4 * 3) + 1 * 3 + 2 of a grid of 5 slots, 4 subcarriers and 3 antennas."""
    token = torch.tensor([[2 * 12 + 1 * 3 + 2]])
    [[position]] = token_positions("stf", token, torch.tensor([[5, 4, 3]]), 60, 64)
    slot, antenna, subcarrier = (sine_cosine(9, width, token.device) for width in stf_widths(64))
    assert torch.equal(position, torch.cat([slot[2], antenna[2], subcarrier[1]]))


def test_the_error_is_that_of_complex_elements(spec: ModelSpec, model: PretrainingModel) -> None:
    batch = make_batch(spec)
    sums = model(batch, MaskDraw(seed=9, epoch=0))
    for column, task in enumerate(TASKS):
        prediction = model.predict(batch, task, seed=9)
        errors = token_losses(prediction.values, batch)[prediction.masked]
        torch.testing.assert_close(sums[column], 2 * errors.sum())
        masked = [spec.target_tokens(scale, 4)[column] for scale in SCALES]
        assert prediction.masked.sum(dim=1).tolist() == masked


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_does_not_depend_on_the_batch(spec: ModelSpec, model: PretrainingModel, task: str) -> None:
    together = model.predict(make_batch(spec), task, seed=9)
    for row, scale in enumerate(SCALES):
        alone = model.predict(make_batch(spec, [scale], first_key=100 + row), task, seed=9)
        length = alone.values.shape[1]
        torch.testing.assert_close(together.values[row, :length], alone.values[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(together.masked[row, :length], alone.masked[0])


def test_published_positions_are_those_of_the_first_tokens() -> None:
    """Of 3 slot, 4 subcarrier and 2 antenna blocks: number n of a block means the n-th token of the published order,
    slots, antennas, subcarriers."""
    published = make_spec("wifo", {"size": "tiny", "position": "published"}).build(seed=0)
    paper = make_spec("wifo", {"size": "tiny"}).build(seed=0)
    assert isinstance(published, Wifo) and isinstance(paper, Wifo)
    grid, index = torch.tensor([[3, 4, 2]]), torch.arange(24)[None]
    slot, subcarrier = index // 8, index // 2 % 4
    # Token n < 4 of the published order is slot 0, antenna 0, subcarrier n: token 2 n of ours.
    assert torch.equal(published.encoder_index("time", index, grid), 2 * slot)
    assert torch.equal(published.encoder_index("frequency", index, grid), 2 * subcarrier)
    assert torch.equal(published.encoder_index("reconstruction", index, grid), index)
    assert torch.equal(paper.encoder_index("time", index, grid), index)
    # Of 9 slot, 2 subcarrier and 3 antenna blocks the eighth token is slot 1, antenna 0, subcarrier 1.
    [[far]] = published.encoder_index("time", torch.tensor([[7 * 6]]), torch.tensor([[9, 2, 3]]))
    assert int(far) == (1 * 2 + 1) * 3 + 0


def test_published_positions_take_no_packed_batches() -> None:
    assert make_spec("wifo", {}).packs
    assert not make_spec("wifo", {"position": "published"}).packs


def test_it_learns_by_heart(spec: ModelSpec) -> None:
    losses = losses_by_heart(spec.build(seed=0), make_batch(spec, [(8, 16, 4)], count=4), lr=2e-3, steps=60)
    assert losses[-1] < 0.5 * losses[0]
