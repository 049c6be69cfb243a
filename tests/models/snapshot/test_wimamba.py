"""WiMamba: published counts, padding, directions, granularities, capture and learning."""

import math
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from channels.errors import UserError
from models.interface import MaskDraw, TokenBatch
from models.layers.parameters import count_parameters, optimizer_groups
from models.registry import make_spec
from models.scan.backends import Wanted, choose_backend
from models.snapshot.masking import mask_tokens
from models.snapshot.model import SnapshotModel
from models.snapshot.wimamba import WiMambaSpec
from tests.models.learning import losses_by_heart
from tests.models.snapshots import alone, loss_and_gradient, packed_and_padded, random_batch, random_channels

DRAW = MaskDraw(seed=0, epoch=0)
TINY = WiMambaSpec(size="tiny")
SCALES = [(2, 32, 16), (2, 18, 10), (1, 4, 4)]


def small_spec(construction: str, scan: Wanted = "auto") -> WiMambaSpec:
    return WiMambaSpec(size="tiny", construction=construction, scan=scan)  # type: ignore[arg-type]


@pytest.fixture(params=["published", "paper"])
def spec(request: pytest.FixtureRequest) -> WiMambaSpec:
    return small_spec(request.param)


@pytest.mark.parametrize(
    ("patches", "parameters"), [((2, 4, 6, 8), 2_486_608), ((4,), 2_432_768), ((4, 6, 8), 2_484_424)]
)
def test_published_parameter_counts(patches: tuple[int, ...], parameters: int) -> None:
    assert count_parameters(WiMambaSpec(patches=patches).build(0)) == parameters


@pytest.mark.parametrize(("patches", "parameters"), [((2, 4, 6, 8), 454_496), ((4,), 429_728)])
def test_parameter_counts_of_the_text(patches: tuple[int, ...], parameters: int) -> None:
    """Two maps with biases, a class token, and 12 times two Mambas of the published size: nothing else."""
    token = 2 * max(patches) ** 2
    assert 128 * (token + 1) + token * (128 + 1) + token + 12 * 35_112 == parameters
    assert count_parameters(WiMambaSpec(construction="paper", patches=patches).build(0)) == parameters


@torch.inference_mode()
def test_each_direction_of_the_text_has_a_half_of_the_features() -> None:
    """The first half is read and written forwards, the second one backwards, and no norm mixes them."""
    layer = small_spec("paper").build(0).eval().backbone.layers[0]
    tokens = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(0))
    before = layer(tokens, None)
    for half, reached in ((slice(0, 32), range(4, 9)), (slice(32, 64), range(5))):
        changed = tokens.clone()
        changed[:, 4, half] += 1
        difference = (layer(changed, None) - before).abs()
        assert difference[0, :, half].amax(dim=1).nonzero().flatten().tolist() == list(reached)
        difference[..., half] = 0
        assert not difference.any()


@torch.inference_mode()
@pytest.mark.parametrize("side", [2, 8])
def test_the_class_token_of_the_text_is_one_more_token(side: int) -> None:
    """A token that equals the learned one gets the same vector from the shared map; the decoder is linear."""
    model = small_spec("paper").build(0).eval()
    token = model.embedding.class_token.view(2, 8, 8)[:, :side, :side].reshape(1, 1, -1)
    vectors = model.embedding(token, side)
    assert torch.allclose(vectors[0, 0], vectors[0, 1]) and vectors.shape == (1, 2, 64)
    assert not torch.allclose(vectors[0, 0], model.embedding(torch.zeros_like(token), side)[0, 1])
    hidden = torch.randn(2, 3, 64, generator=torch.Generator().manual_seed(0))
    zero = model.head(torch.zeros_like(hidden), side)
    assert torch.allclose(model.head(2 * hidden, side) - zero, 2 * (model.head(hidden, side) - zero), atol=1e-5)


def test_published_layer_counts() -> None:
    layer = WiMambaSpec().build(0).backbone.layers[0]
    assert count_parameters(layer) == 200_616
    assert count_parameters(layer.mamba) == 35_112
    assert count_parameters(layer.network) == 131_712


def test_options_follow_the_construction_unless_given() -> None:
    published, paper = WiMambaSpec(), WiMambaSpec(construction="paper")
    assert (published.class_token, published.embedding, published.mask_values) == (
        "constant",
        "per_granularity",
        "published",
    )
    assert (paper.class_token, paper.embedding, paper.mask_values) == ("learnable", "shared", "paper")
    assert WiMambaSpec(construction="paper", class_token="constant").class_token == "constant"


def test_the_registry_makes_it_from_a_job_file() -> None:
    options = {"size": "tiny", "patches": [4, 8], "state": 16, "policy": [1, 0, 0]}
    spec = make_spec("wimamba", options)
    assert spec == WiMambaSpec(size="tiny", patches=(4, 8), state=16, policy=(1.0, 0.0, 0.0))
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert spec.name == "wimamba"


def test_counts_of_a_sample() -> None:
    spec = WiMambaSpec()
    assert spec.samples_per_stored((24, 64, 16)) == 24
    assert [spec.length((24, 64, 16), side) for side in spec.variants] == [257, 65, 34, 17]
    assert spec.target_tokens((24, 64, 16), 4) == (25,)
    assert spec.tasks == ("reconstruction",)
    assert [(task.name, task.variant) for task in spec.evaluation_tasks] == [
        ("reconstruction_2x2", 2),
        ("reconstruction_4x4", 4),
        ("reconstruction_6x6", 6),
        ("reconstruction_8x8", 8),
    ]


def test_sizes_the_planner_sees_are_those_of_the_batch(spec: WiMambaSpec) -> None:
    batch = random_batch(spec, 4, [(1, 18, 10)])
    assert spec.length((1, 18, 10), 4) == 1 + batch.tokens.shape[1] == 1 + int(batch.lengths[0])
    assert int(batch.grid[0].prod()) == batch.tokens.shape[1]


@pytest.mark.parametrize("scan", ["torch", "native"])
@pytest.mark.parametrize("construction", ["published", "paper"])
def test_padding_changes_no_loss_and_no_prediction(construction: str, scan: Wanted) -> None:
    if scan == "native" and choose_backend("cpu").name != "native":
        pytest.skip("no C compiler here")
    model = small_spec(construction, scan).build(0).eval()
    batch = random_batch(model.spec, 4, SCALES)
    together = model.predict(batch, "reconstruction_4x4", seed=1)
    singles = [alone(batch, row) for row in range(len(batch.tokens))]
    for row, single in enumerate(singles):
        lone = model.predict(single, "reconstruction_4x4", seed=1)
        length = single.tokens.shape[1]
        assert torch.allclose(together.values[row, :length], lone.values[0], atol=1e-5)
        assert torch.equal(together.masked[row, :length], lone.masked[0])
        assert not together.masked[row, length:].any()
    assert model(batch, DRAW).item() == pytest.approx(sum(model(one, DRAW).item() for one in singles), rel=1e-5)


@pytest.mark.parametrize("scan", ["torch", "native"])
@pytest.mark.parametrize("construction", ["published", "paper"])
def test_packed_batches_train_and_predict_as_padded_ones(construction: str, scan: Wanted) -> None:
    if scan == "native" and choose_backend("cpu").name != "native":
        pytest.skip("no C compiler here")
    model = small_spec(construction, scan).build(0).eval()
    flat, rows = packed_and_padded(model.spec, 4)
    (packed, mine), (padded, theirs) = (loss_and_gradient(model, batch) for batch in (flat, rows))
    assert packed == pytest.approx(padded, rel=1e-5)
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()
    with torch.no_grad():
        one, other = (model.predict(batch, "reconstruction_4x4", seed=1) for batch in (flat, rows))
    valid = torch.arange(rows.tokens.shape[1]) < rows.lengths[:, None]
    assert torch.equal(one.masked, other.masked[valid])
    assert torch.allclose(one.values, other.values[valid], atol=1e-5)


def test_it_packs_unless_it_is_bound_to_a_scan_that_cannot() -> None:
    assert TINY.packs and not small_spec("published", "mamba_ssm").packs
    assert TINY.notes("cpu", packed=True) == TINY.notes("cpu", packed=False)


def test_what_lies_in_padding_is_never_seen(spec: WiMambaSpec) -> None:
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, SCALES)
    before = model.encode_tokens(batch.tokens, 4, batch.lengths)
    beyond = torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    after = model.encode_tokens(batch.tokens.masked_fill(beyond[..., None], 1e3), 4, batch.lengths)
    for row, length in enumerate(batch.lengths):
        assert torch.equal(before[row, : length + 1], after[row, : length + 1])


def test_both_directions_reach_the_ends_of_a_padded_sample(spec: WiMambaSpec) -> None:
    """The class token sees the last valid token, the last valid token sees the first one."""
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, SCALES)
    row, length = 2, int(batch.lengths[2])
    assert length < batch.tokens.shape[1]
    for changed, seen in ((length - 1, 0), (0, length)):
        tokens = batch.tokens.clone()
        tokens[row, changed] += 10
        before, after = (model.encode_tokens(values, 4, batch.lengths) for values in (batch.tokens, tokens))
        assert (before[row, seen] - after[row, seen]).abs().max() > 1e-6
        others = [other for other in range(len(tokens)) if other != row]
        assert torch.equal(before[others], after[others])


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_every_granularity_trains_every_parameter_it_touches(spec: WiMambaSpec, side: int) -> None:
    model = spec.build(0)
    model(random_batch(spec, side, [(2, 20, 12)]), DRAW).sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    idle = {name for name, gradient in gradients.items() if not gradient.any()}
    if spec.embedding == "shared":
        assert not idle
    else:
        others = [other for other in spec.patches if other != side]
        assert idle == {
            f"{part}.maps.{other}.{kind}"
            for part in ("embedding", "head")
            for other in others
            for kind in ("weight", "bias")
        }


def test_weights_are_a_function_of_the_seed(spec: WiMambaSpec) -> None:
    before = torch.get_rng_state()
    first, again, other = (spec.build(seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_initial_step_sizes_and_decays_are_mambas() -> None:
    mamba = WiMambaSpec().build(0).backbone.layers[0].mamba
    steps = torch.nn.functional.softplus(mamba.step_bias)
    assert 0.001 <= steps.min() < 0.01 < steps.max() <= 0.1
    assert torch.allclose(mamba.log_decay.exp().view(2, 76, 8)[1, 5], torch.arange(1.0, 9))


def test_dropout_follows_the_callers_seed(spec: WiMambaSpec) -> None:
    model = spec.build(0).train()
    batch = random_batch(spec, 4, SCALES)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(model(batch, DRAW).item())
    assert losses[0] == losses[1] != losses[2]


def test_weights_of_fillers_count_nothing(spec: WiMambaSpec) -> None:
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, [(2, 16, 8)])
    second = model(alone(batch, 1), DRAW)
    batch.weight[0] = 0
    assert torch.allclose(model(batch, DRAW), second)


def test_loss_of_a_sample_is_the_error_of_its_masked_tokens(spec: WiMambaSpec) -> None:
    """The loss by hand: mean over the real places of a token, sum over masked tokens."""
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, [(1, 18, 10)])
    assert batch.elements is not None
    masked = mask_tokens(batch, DRAW, spec.masking)
    with torch.no_grad():
        predicted = model.head(model.encode_tokens(masked.tokens, 4)[:, 1:], 4)
    expected = 0.0
    for token in range(batch.tokens.shape[1]):
        if masked.masked[0, token]:
            real = batch.elements[0, token]
            expected += float((predicted[0, token] - batch.tokens[0, token])[real].square().mean())
    assert model(batch, DRAW).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("side", [2, 6])
def test_encode_takes_channels(spec: WiMambaSpec, side: int) -> None:
    model = spec.build(0).eval()
    channels = random_channels(2, 20, 10)
    encoded = model.encode_channels(torch.from_numpy(channels[:, 0]), side)
    assert encoded.shape == (2, spec.length((1, 20, 10), side), 64)
    tokens = torch.from_numpy(spec.tokenise(channels, side).values)
    assert torch.equal(encoded, model.encode_tokens(tokens, side))


@pytest.mark.parametrize("construction", ["published", "paper"])
def test_encode_never_waits_for_the_device(construction: str) -> None:
    """Tensors without values go through it: no shape and no branch depends on a value, as a CUDA graph demands."""
    model = small_spec(construction, scan="torch").build(0).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        encoded = model.encode_channels(torch.empty(3, 40, 20, dtype=torch.complex64), 4)
        padded = model.encode_tokens(torch.empty(3, 50, 32), 4, torch.empty(3, dtype=torch.int64))
        with pytest.raises(DataDependentOutputException):
            encoded.sum().item()
    assert encoded.shape == padded.shape == (3, 51, 64)


def test_no_decay_for_what_mamba_exempts() -> None:
    model = TINY.build(0)
    decayed = {id(parameter) for parameter in optimizer_groups(model, 0.05)[0]["params"]}
    exempt = [name for name, parameter in model.named_parameters() if id(parameter) not in decayed]
    for name in ("log_decay", "skip", "step_bias", "conv_bias"):
        assert f"backbone.layers.0.mamba.{name}" in exempt
    assert "backbone.layers.0.mamba.select_weight" not in exempt


@pytest.mark.parametrize("construction", ["published", "paper"])
def test_flops_are_those_counted(construction: str) -> None:
    """Against torch's counter of matrix products, which sees all but the scan and the short convolution."""
    spec = WiMambaSpec(construction=construction, scan="torch")  # type: ignore[arg-type]
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, [(1, 32, 16)])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.predict(batch, "reconstruction_4x4", seed=0)
    scan_and_convolution = 2 * 33 * 12 * 2 * 76 * (3 * 8 + 4)
    # The fallback reads the states of whole chunks, 64 steps here, with a product that the counter sees.
    states_read = 2 * 64 * 12 * 2 * 76 * 8
    counted = counter.get_total_flops() - states_read
    assert spec.forward_flops((1, 32, 16), 4) - scan_and_convolution == counted


def test_learns_a_batch_by_heart(spec: WiMambaSpec) -> None:
    batch = random_batch(spec, 4, [(2, 16, 16)])
    losses = losses_by_heart(spec.build(0).train(), batch, lr=3e-3, steps=60)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("variant", [3, 0, -4, 16])
def test_a_granularity_that_is_not_in_the_set_is_refused(variant: int) -> None:
    model = TINY.build(0)
    channels = random_channels(1, 16, 16)
    for ask in (
        lambda: TINY.length((1, 16, 16), variant),
        lambda: TINY.target_tokens((1, 16, 16), variant),
        lambda: TINY.tokenise(channels, variant),
        lambda: model.encode_channels(torch.from_numpy(channels[:, 0]), variant),
    ):
        with pytest.raises(UserError, match=f"granularity {variant} is not in the set; it is 2, 4, 6, 8"):
            ask()


def test_a_task_of_another_granularity_is_refused() -> None:
    batch = random_batch(TINY, 4, [(1, 16, 16)])
    for task in ("reconstruction_8x8", "time"):
        with pytest.raises(UserError, match=task):
            TINY.build(0).predict(batch, task, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state": 0}, "state: 0 is not within 1..256"),
        ({"conv": 17}, "conv: 17 is not within 1..16"),
        ({"dropout": 1.0}, "dropout: 1.0 is not a share"),
        ({"scan": "cuda"}, "scan"),
        ({"construction": "both"}, "construction"),
    ],
)
def test_bad_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_spec("wimamba", options)


def test_a_zero_dimension_and_nan_are_refused() -> None:
    with pytest.raises(UserError, match="each of the axes"):
        TINY.length((1, 0, 16), 4)
    with pytest.raises(UserError, match="each of the axes"):
        TINY.build(0).encode_channels(torch.zeros(2, 16, 0, dtype=torch.complex64), 4)
    channels = random_channels(2, 16, 16)
    channels[1, 0, 0, 0] = math.nan
    with pytest.raises(UserError, match="NaN"):
        TINY.tokenise(channels, 4)


def test_fixture_batch_is_padded() -> None:
    batch: TokenBatch = random_batch(TINY, 4, SCALES)
    assert batch.lengths.tolist() == [32, 32, 15, 15, 1]
    assert isinstance(TINY.build(0), SnapshotModel)
