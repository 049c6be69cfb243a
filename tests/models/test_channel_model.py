"""Channels in, channels out: what is shown stays, what is masked is the network's prediction."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from channels.errors import UserError
from models.channel_model import ChannelModel
from models.elements import find_elements
from models.interface import ModelSpec, Tokens
from models.layers.patches import make_patches, unpatch
from models.registry import make_spec

SPECS = {
    "hetercsi": make_spec("hetercsi", {"size": "tiny"}),
    "wimamba": make_spec("wimamba", {"size": "tiny", "patches": [2, 4]}),
    "lwm": make_spec("lwm", {"size": "tiny", "patches": [2, 4]}),
}
by_model = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def some_channels(shape: tuple[int, int, int], seed: int = 0, power: float = 1.0) -> torch.Tensor:
    values = np.random.default_rng(seed).normal(scale=(power / 2) ** 0.5, size=(3, *shape, 2))
    return torch.from_numpy(values.astype(np.float32))


@by_model
@pytest.mark.parametrize("shape", [(8, 8, 4), (6, 7, 5)], ids=["whole", "partial"])
@torch.inference_mode()
def test_what_is_shown_stays_and_what_is_masked_is_predicted(spec: ModelSpec, shape: tuple[int, int, int]) -> None:
    model = ChannelModel(spec, spec.build(seed=1)).eval()
    channels = some_channels(shape)
    for task in model.tasks:
        model.task = task
        completed = model(channels)
        assert completed.shape == channels.shape and completed.dtype == torch.float32
        kept = torch.isclose(completed, channels, atol=1e-5)
        assert 0.05 < kept.float().mean() < 0.95
        assert torch.isfinite(completed).all()


@torch.inference_mode()
def test_the_forecast_is_what_the_network_predicts_of_the_later_slots() -> None:
    spec = SPECS["hetercsi"]
    network = spec.build(seed=1)
    model = ChannelModel(spec, network).eval()
    assert model.task == "time"
    channels = some_channels((8, 8, 4))
    completed = torch.view_as_complex(model(channels))
    torch.testing.assert_close(completed[:, :4], torch.view_as_complex(channels)[:, :4])

    scale = channels.square().sum(-1).mean(dim=(1, 2, 3)).sqrt()
    values = (torch.view_as_complex(channels) / scale[:, None, None, None]).numpy()
    tokens = make_patches(values, (4, 4, 4))
    from models.interface import collate

    batch = collate([tokens], np.arange(3), np.ones(3, np.float32), 4)
    wanted = unpatch(network.predict(batch, "time", 0).values, tokens.grid, (4, 4, 4))
    torch.testing.assert_close(completed[:, 4:], wanted[:, 4:] * scale[:, None, None, None], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_power_does_not_matter() -> None:
    spec = SPECS["hetercsi"]
    model = ChannelModel(spec, spec.build(seed=1)).eval()
    channels = some_channels((8, 8, 4))
    torch.testing.assert_close(model(1e-3 * channels), 1e-3 * model(channels), atol=1e-8, rtol=1e-4)


@torch.inference_mode()
def test_power_of_one_snapshot_does_not_matter_to_another() -> None:
    spec = SPECS["wimamba"]
    model = ChannelModel(spec, spec.build(seed=1)).eval()
    channels = some_channels((2, 8, 4))
    louder = channels.clone()
    louder[:, 1] *= 100
    plain, mixed = model(channels), model(louder)
    torch.testing.assert_close(mixed[:, 0], plain[:, 0])
    torch.testing.assert_close(mixed[:, 1], 100 * plain[:, 1], atol=1e-4, rtol=1e-4)


@by_model
def test_every_number_has_one_place_among_the_tokens(spec: ModelSpec) -> None:
    variant, shape = spec.variants[-1], (1, 7, 5) if spec.samples_per_stored((2, 4, 4)) > 1 else (6, 7, 5)
    elements = find_elements(spec, shape, variant)
    assert elements is not None
    assert len(elements.index.unique()) == 2 * np.prod(shape)
    channels = torch.view_as_complex(some_channels(shape))
    tokens = torch.from_numpy(spec.tokenise(channels.numpy(), variant).values)
    assert torch.equal(elements.channels(tokens), channels)
    assert torch.equal(elements.tokens(channels, tokens), tokens)


def test_tokens_that_are_no_plain_channels_have_no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS["hetercsi"]
    plain = type(spec).tokenise

    def doubled(self: ModelSpec, channels: NDArray[np.complex64], variant: int) -> Tokens:
        tokens = plain(self, channels, variant)
        return replace(tokens, values=2 * tokens.values)

    monkeypatch.setattr(type(spec), "tokenise", doubled)
    assert find_elements(spec, (8, 8, 4), 4) is None
    with pytest.raises(UserError, match="more than the numbers"):
        ChannelModel(spec, spec.build(seed=1)).eval()(some_channels((8, 8, 4)))


def test_bad_input_is_refused() -> None:
    spec = SPECS["hetercsi"]
    model = ChannelModel(spec, spec.build(seed=1)).eval()
    with pytest.raises(UserError, match="expected"):
        model(torch.zeros(2, 8, 8, 4))
    with pytest.raises(UserError, match="no power"):
        model(torch.zeros(2, 8, 8, 4, 2))
    spoilt = some_channels((8, 8, 4))
    spoilt[1, 2, 3, 1, 0] = float("nan")
    with pytest.raises(UserError, match="training sample 1 of 3 holds NaN"):
        model(spoilt)
    model.task = "weather"
    with pytest.raises(UserError, match="weather"):
        model(some_channels((8, 8, 4)))
