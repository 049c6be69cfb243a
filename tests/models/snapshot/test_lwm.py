"""LWM and the raw baseline: published counts, norm and residuals, attention, padding."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from channels.errors import UserError
from models.interface import MaskDraw, ModelSpec
from models.layers.parameters import count_parameters
from models.registry import make_spec
from models.snapshot.lwm import LwmSpec, UnbiasedNorm
from models.snapshot.raw import RawSpec
from tests.models.learning import losses_by_heart
from tests.models.snapshots import alone, loss_and_gradient, packed_and_padded, random_batch, random_channels

DRAW = MaskDraw(seed=0, epoch=0)
SCALES = [(2, 32, 16), (2, 18, 10), (1, 4, 4)]


@pytest.mark.parametrize(("patches", "parameters"), [((4,), 2_470_304), ((2, 4, 6, 8), 2_524_144)])
def test_published_parameter_counts(patches: tuple[int, ...], parameters: int) -> None:
    assert count_parameters(LwmSpec(patches=patches).build(0)) == parameters


@pytest.mark.parametrize("name", ["lwm", "raw"])
def test_the_registry_makes_it(name: str) -> None:
    spec = make_spec(name, {"patches": [2, 4]})
    assert spec.name == name
    assert spec.variants == (2, 4)
    assert spec.samples_per_stored((16, 32, 4)) == 16


@pytest.mark.parametrize("spec", [LwmSpec(size="tiny"), LwmSpec(size="tiny", attention="naive"), RawSpec()])
def test_padding_changes_no_loss_and_no_prediction(spec: ModelSpec) -> None:
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, SCALES)
    together = model.predict(batch, "reconstruction_4x4", seed=1)
    singles = [alone(batch, row) for row in range(len(batch.tokens))]
    for row, single in enumerate(singles):
        lone = model.predict(single, "reconstruction_4x4", seed=1)
        length = single.tokens.shape[1]
        assert torch.allclose(together.values[row, :length], lone.values[0], atol=1e-5)
        assert torch.equal(together.masked[row, :length], lone.masked[0])
    assert model(batch, DRAW).item() == pytest.approx(sum(model(one, DRAW).item() for one in singles), rel=1e-5)


def test_what_lies_in_padding_is_never_seen() -> None:
    spec = LwmSpec(size="tiny")
    model = spec.build(0).eval()
    batch = random_batch(spec, 4, SCALES)
    before = model.encode_tokens(batch.tokens, 4, batch.lengths)
    beyond = torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    after = model.encode_tokens(batch.tokens.masked_fill(beyond[..., None], 1e3), 4, batch.lengths)
    for row, length in enumerate(batch.lengths):
        assert torch.allclose(before[row, : length + 1], after[row, : length + 1], atol=1e-6)


def test_both_attentions_are_the_same_function() -> None:
    fast, naive = (LwmSpec(size="tiny", attention=kind).build(0).eval() for kind in ("fast", "naive"))
    batch = random_batch(fast.spec, 4, SCALES)
    outputs = [model.encode_tokens(batch.tokens, 4, batch.lengths) for model in (fast, naive)]
    for row, length in enumerate(batch.lengths):
        assert torch.allclose(outputs[0][row, : length + 1], outputs[1][row, : length + 1], atol=1e-5)


def test_norm_divides_by_the_unbiased_deviation() -> None:
    vectors = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    expected = (vectors - 3) / ((4 + 1 + 0 + 9) / 3) ** 0.5
    assert torch.allclose(UnbiasedNorm(4)(vectors), expected, atol=1e-5)


def test_residual_of_attention_is_double() -> None:
    """With an attention that returns 1 and a network that returns 1 a layer is norm(norm(2 x + 1) + 1)."""
    layer = LwmSpec(size="tiny").build(0).eval().backbone.layers[0]
    for linear in (layer.proj, layer.network[-1]):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.ones_(linear.bias)
    tokens = torch.randn(1, 5, 64, generator=torch.Generator().manual_seed(0))
    mixed = layer.norm_mixed(2 * tokens + 1)
    assert torch.allclose(layer(tokens, None), layer.norm_out(mixed + 1), atol=1e-5)


def test_tokens_have_positions() -> None:
    model = LwmSpec(size="tiny").build(0).eval()
    tokens = torch.randn(1, 6, 32, generator=torch.Generator().manual_seed(0))
    encoded = model.encode_tokens(tokens, 4)
    turned = model.encode_tokens(tokens.flip(1), 4)
    assert (encoded[:, 1:] - turned[:, 1:].flip(1)).abs().max() > 1e-3


def test_more_tokens_than_positions_are_refused() -> None:
    spec = LwmSpec()
    assert spec.length((1, 64, 32), 2) == 513
    with pytest.raises(UserError, match="positions: 1025 tokens"):
        spec.length((1, 64, 64), 2)
    assert LwmSpec(positions=1025).length((1, 64, 64), 2) == 1025


def test_flops_are_those_counted() -> None:
    spec = LwmSpec(attention="naive")
    batch = random_batch(spec, 4, [(1, 32, 16)])
    model = spec.build(0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.predict(batch, "reconstruction_4x4", seed=0)
    assert spec.forward_flops((1, 32, 16), 4) == pytest.approx(counter.get_total_flops())
    raw = RawSpec()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        raw.build(0).predict(batch, "reconstruction_4x4", seed=0)
    assert raw.forward_flops((1, 32, 16), 4) == pytest.approx(counter.get_total_flops())


@pytest.mark.parametrize("side", [2, 4, 6, 8])
def test_every_parameter_takes_part(side: int) -> None:
    for spec in (LwmSpec(size="tiny"), RawSpec()):
        model = spec.build(0)
        model(random_batch(spec, side, [(2, 20, 12)]), DRAW).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_raw_sees_one_token_at_a_time() -> None:
    spec = RawSpec()
    model = spec.build(0)
    tokens = torch.from_numpy(spec.tokenise(random_channels(1, 16, 16), 4).values)
    changed = tokens.clone()
    changed[0, 3] += 1
    before, after = (model.head(model.encode_tokens(values, 4)[:, 1:], 4) for values in (tokens, changed))
    assert (before != after).any(dim=2).tolist() == [[index == 3 for index in range(16)]]
    assert spec.length((1, 16, 16), 4) == 16


def test_lwm_learns_a_batch_by_heart() -> None:
    spec = LwmSpec(size="tiny")
    batch = random_batch(spec, 4, [(2, 16, 16)])
    losses = losses_by_heart(spec.build(0).train(), batch, lr=1e-3, steps=80)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(("options", "field"), [({"positions": 1}, "positions"), ({"dropout": -0.1}, "dropout")])
def test_bad_options_are_refused(options: dict[str, object], field: str) -> None:
    with pytest.raises(UserError, match=field):
        make_spec("lwm", options)


@pytest.mark.parametrize("variant", [4, 8])
@pytest.mark.parametrize("values", ["published", "paper"])
def test_packed_batches_train_as_padded_ones(variant: int, values: str) -> None:
    spec = make_spec("lwm", {"size": "tiny", "dropout": 0.0, "patches": [4, 8], "mask_values": values})
    assert spec.packs
    model = spec.build(0)
    (packed, mine), (padded, theirs) = (loss_and_gradient(model, batch) for batch in packed_and_padded(spec, variant))
    assert packed == pytest.approx(padded, rel=1e-5)
    assert (mine - theirs).norm() < 1e-5 * theirs.norm()


def test_packed_predictions_are_those_of_padded_batches() -> None:
    spec = LwmSpec(size="tiny")
    model = spec.build(0).eval()
    flat, rows = packed_and_padded(spec, 4)
    with torch.no_grad():
        packed, padded = (model.predict(batch, "reconstruction_4x4", seed=1) for batch in (flat, rows))
    valid = torch.arange(rows.tokens.shape[1]) < rows.lengths[:, None]
    assert torch.equal(packed.masked, padded.masked[valid])
    torch.testing.assert_close(packed.values, padded.values[valid], rtol=1e-4, atol=1e-5)


def test_naive_attention_does_not_pack() -> None:
    assert not LwmSpec(size="tiny", attention="naive").packs
    assert not RawSpec().packs
