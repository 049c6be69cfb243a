"""Embeddings: a sample's is the same alone, padded and packed; gradients reach the layers that are named."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.interface import Embedding, ModelSpec, PackedBatch, PretrainingModel, TokenBatch, collate
from models.layers.packing import pack
from models.registry import make_spec
from tests.models.batches import make_channels

SNAPSHOTS = ((1, 16, 8), (1, 8, 8), (1, 10, 7), (1, 16, 8))
SAMPLES = ((16, 32, 8), (8, 16, 4), (7, 9, 5), (1, 32, 32))
MODELS: dict[str, tuple[dict[str, Any], tuple[tuple[int, int, int], ...]]] = {
    "wimamba": ({"size": "tiny", "patches": [4]}, SNAPSHOTS),
    "lwm": ({"size": "tiny", "patches": [4]}, SNAPSHOTS),
    "raw": ({"patches": [4]}, SNAPSHOTS),
    "hetercsi": ({"size": "tiny", "position": "grid"}, SAMPLES),
    "rotary": ({"size": "tiny", "position": "rotary"}, SAMPLES),
    "wifo": ({"size": "tiny"}, SAMPLES),
}


def made(name: str) -> tuple[ModelSpec, PretrainingModel, tuple[tuple[int, int, int], ...]]:
    options, scales = MODELS[name]
    spec = make_spec("hetercsi" if name == "rotary" else name, options)
    return spec, spec.build(seed=2).eval(), scales


def batch_of(spec: ModelSpec, scales: tuple[tuple[int, int, int], ...], rows: list[int], packed: bool) -> Any:
    parts = [spec.tokenise(make_channels(1, scales[row], row), 4) for row in rows]
    return (pack if packed else collate)(parts, np.asarray(rows), np.ones(len(rows), np.float32), 4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "packed"), [*((name, False) for name in MODELS), *((name, True) for name in MODELS if name != "raw")]
)
def test_an_embedding_is_the_same_in_any_batch(name: str, packed: bool) -> None:
    spec, model, scales = made(name)
    together: Embedding = model.encode(batch_of(spec, scales, list(range(len(scales))), packed))
    assert (together.class_token is None) == (name in ("raw", "hetercsi", "rotary", "wifo"))
    assert together.patches.dtype == torch.float32
    assert not together.patches[~together.valid].any()
    for row, scale in enumerate(scales):
        length = int(np.prod(spec.grid(scale, 4)))
        alone: Embedding = model.encode(batch_of(spec, scales, [row], False))
        assert alone.patches.shape[:2] == (1, length) and bool(alone.valid.all())
        assert together.valid[row].tolist() == [True] * length + [False] * (together.valid.shape[1] - length)
        torch.testing.assert_close(together.patches[row, :length], alone.patches[0], rtol=1e-4, atol=1e-5)
        if together.class_token is not None and alone.class_token is not None:
            torch.testing.assert_close(together.class_token[row], alone.class_token[0], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_embeddings_depend_on_the_channel_and_not_on_its_key() -> None:
    spec, model, scales = made("wimamba")
    batch: TokenBatch = batch_of(spec, scales, [0, 3], False)
    first = model.encode(batch)
    assert torch.equal(first.patches, model.encode(replace(batch, keys=batch.keys + 7)).patches)
    assert not torch.allclose(first.patches[0], first.patches[1])


def test_raw_embeddings_are_the_patches() -> None:
    spec, model, scales = made("raw")
    batch: TokenBatch = batch_of(spec, scales, [0, 1], False)
    assert torch.equal(model.encode(batch).patches, batch.tokens)


@pytest.mark.parametrize("name", ["wimamba", "lwm", "hetercsi"])
def test_gradients_reach_the_last_of_the_named_layers(name: str) -> None:
    spec, model, scales = made(name)
    layers = model.encoder_layers()
    assert len(layers) == 4
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in layers[-1].parameters():
        parameter.requires_grad_(True)
    model.encode(batch_of(spec, scales, [0, 1], False)).patches.square().sum().backward()
    assert all(parameter.grad is not None for parameter in layers[-1].parameters())
    assert all(parameter.grad is None for parameter in layers[0].parameters())


def test_a_model_without_an_encoder_says_so() -> None:
    class Blind(PretrainingModel):
        pass

    spec, _, scales = made("hetercsi")
    batch: PackedBatch = batch_of(spec, scales, [0], True)
    with pytest.raises(UserError, match="Blind has no encoder") as caught:
        Blind().encode(batch)
    assert "\n" not in str(caught.value) and Blind().encoder_layers() == ()
