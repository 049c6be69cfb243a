"""BERT4MIMO: BERT's layers, hidden rows that it never sees, one number of antennas."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from channels.errors import UserError
from models.baselines.bert_network import BertNetwork
from models.interface import MaskDraw, ModelSpec, PretrainingModel, TokenBatch, collate
from models.layers.attention import PostNormBlock
from models.layers.losses import token_losses
from models.layers.parameters import count_parameters
from models.registry import make_spec
from tests.models.batches import make_channels
from tests.models.learning import losses_by_heart

DRAW = MaskDraw(seed=3, epoch=1)
SUBCARRIERS = (16, 40, 1, 7)
BASE: dict[str, Any] = {"antennas": 4, "size": "tiny", "dropout": 0.0}


def make_rows(spec: ModelSpec, subcarriers: tuple[int, ...] = SUBCARRIERS, first_key: int = 100) -> TokenBatch:
    """One snapshot of each length; values and key follow from its number."""
    keys = np.arange(first_key, first_key + len(subcarriers))
    pairs = zip(subcarriers, keys, strict=True)
    parts = [spec.tokenise(make_channels(1, (1, count, 4), int(key)), 1) for count, key in pairs]
    return collate(parts, keys, np.ones(len(keys), np.float32), 1)


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return make_spec("bert4mimo", BASE)


@pytest.fixture(scope="module")
def model(spec: ModelSpec) -> PretrainingModel:
    return spec.build(seed=1)


def test_a_layer_is_that_of_torch() -> None:
    """torch's encoder layer with the norm behind, as BERT has it, given the same weights."""
    torch.manual_seed(0)
    ours, theirs = (
        PostNormBlock(32, 4, 64, dropout=0.1),
        nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, activation="gelu", layer_norm_eps=1e-12, batch_first=True),
    )
    pairs = {
        "self_attn.in_proj_": "attention.qkv.", "self_attn.out_proj.": "attention.proj.",
        "linear1.": "mlp.0.", "linear2.": "mlp.2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    weights = theirs.state_dict()
    ours.load_state_dict({f"{b}{kind}": weights[f"{a}{kind}"] for a, b in pairs.items() for kind in ("weight", "bias")})
    tokens = torch.randn(3, 9, 32)
    torch.testing.assert_close(ours.eval()(tokens, None), theirs.eval()(tokens), rtol=1e-5, atol=1e-6)


def test_the_network_is_the_published_one() -> None:
    """BERT of transformers between the published maps and table, as a whole, given the same weights."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=2
    )
    bert = transformers.BertModel(config).eval()
    ours = make_spec("bert4mimo", BASE).build(seed=1).eval()
    assert isinstance(ours, BertNetwork)
    for parameter in bert.parameters():
        nn.init.normal_(parameter, std=0.1)
    embeddings = bert.embeddings
    with torch.no_grad():
        # The one token type in use adds the same vector everywhere.
        ours.positions.weight.copy_(embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0])
        ours.norm.load_state_dict(embeddings.LayerNorm.state_dict())
        for block, layer in zip(ours.blocks, bert.encoder.layer, strict=True):
            assert isinstance(block, PostNormBlock)
            attention = layer.attention
            parts = (attention.self.query, attention.self.key, attention.self.value)
            block.attention.qkv.weight.copy_(torch.cat([part.weight for part in parts]))
            block.attention.qkv.bias.copy_(torch.cat([part.bias for part in parts]))
            block.attention.proj.load_state_dict(attention.output.dense.state_dict())
            block.norm1.load_state_dict(attention.output.LayerNorm.state_dict())
            block.mlp[0].load_state_dict(layer.intermediate.dense.state_dict())
            block.mlp[2].load_state_dict(layer.output.dense.state_dict())
            block.norm2.load_state_dict(layer.output.LayerNorm.state_dict())
    batch = make_rows(make_spec("bert4mimo", BASE), (16, 16))
    prediction = ours.predict(batch, "reconstruction", seed=5)
    rows = batch.tokens.masked_fill(prediction.masked[..., None], 0)
    states = bert(inputs_embeds=ours.embedding(rows) + ours.subcarriers(torch.arange(16))).last_hidden_state
    torch.testing.assert_close(prediction.values, ours.output(states), rtol=1e-5, atol=1e-5)


def test_parameters_of_the_published_size() -> None:
    """Six layers of 2,102,784, two tables of 512 x 512, a norm, and the maps of 2 x 16 numbers in and out."""
    ends = 32 * 512 + 512 + 512 * 32 + 32
    spec = make_spec("bert4mimo", {"antennas": 16})
    assert count_parameters(spec.build(seed=0)) == 6 * 2_102_784 + 2 * 512 * 512 + 2 * 512 + ends
    assert spec.length((24, 128, 16), 1) == 128
    assert spec.target_tokens((24, 128, 16), 1) == (109,)
    assert spec.samples_per_stored((24, 128, 16)) == 24


def test_a_row_is_a_subcarrier_on_the_host_and_on_a_device(spec: ModelSpec) -> None:
    channels = make_channels(3, (1, 7, 4), 5)
    tokens = spec.tokenise(channels, 1)
    assert tokens.grid == (1, 7, 1) and tokens.elements is None
    np.testing.assert_array_equal(tokens.values, np.concatenate([channels.real, channels.imag], axis=3)[:, 0])
    np.testing.assert_array_equal(spec.patch(torch.from_numpy(channels), 1).numpy(), tokens.values)


def test_hidden_rows_change_no_prediction(spec: ModelSpec, model: PretrainingModel) -> None:
    batch = make_rows(spec)
    prediction = model.predict(batch, "reconstruction", seed=5)
    assert prediction.masked.sum(dim=1).tolist() == [spec.target_tokens((1, k, 4), 1)[0] for k in SUBCARRIERS]
    batch.tokens[prediction.masked] = 1e3
    assert torch.equal(model.predict(batch, "reconstruction", seed=5).values, prediction.values)


def test_a_prediction_does_not_depend_on_the_batch(spec: ModelSpec, model: PretrainingModel) -> None:
    together = model.predict(make_rows(spec), "reconstruction", seed=9)
    for row, count in enumerate(SUBCARRIERS):
        alone = model.predict(make_rows(spec, (count,), 100 + row), "reconstruction", seed=9)
        torch.testing.assert_close(together.values[row, :count], alone.values[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(together.masked[row, :count], alone.masked[0])
        assert not together.masked[row, count:].any()


@pytest.mark.parametrize("rows", ["hidden", "all"])
def test_the_loss_sums_the_errors_of_rows_that_count(rows: str) -> None:
    spec = make_spec("bert4mimo", {**BASE, "rows": rows})
    model, batch = spec.build(seed=1), make_rows(spec)
    prediction = model.predict(batch, "reconstruction", seed=3)
    [loss] = model(batch, MaskDraw(seed=3, epoch=0))
    torch.testing.assert_close(loss, token_losses(prediction.values, batch)[prediction.masked].sum())
    counted = [spec.target_tokens((1, count, 4), 1)[0] for count in SUBCARRIERS]
    assert prediction.masked.sum(dim=1).tolist() == counted
    assert (counted == list(SUBCARRIERS)) == (rows == "all")


def test_references_interpolate_between_visible_subcarriers(spec: ModelSpec) -> None:
    [task] = spec.evaluation_tasks
    batch = make_rows(spec, (5,))
    masked = torch.tensor([[False, True, True, True, False]])
    linear = spec.reference("linear", task, batch, masked)
    torch.testing.assert_close(linear[0, 2], (batch.tokens[0, 0] + batch.tokens[0, 4]) / 2)


@pytest.mark.parametrize(
    ("options", "shape", "says"),
    [
        ({"antennas": 4}, (8, 16, 8), "model.antennas: bert4mimo is made for 4 antennas, not for 8"),
        ({}, (8, 16, 8), "model.antennas: .* does not know it; give it, or name the set"),
        ({"antennas": 4}, (8, 600, 4), "1 to 512 subcarriers, not of 600"),
        ({"antennas": 0}, (8, 16, 0), "model.antennas: 0 is below 1"),
        ({"antennas": 4, "mask_ratio": 1.0}, (8, 16, 4), "model.mask_ratio: 1.0 is not in"),
    ],
)
def test_what_it_cannot_take_is_said_in_one_line(
    options: dict[str, Any], shape: tuple[int, int, int], says: str
) -> None:
    with pytest.raises(UserError, match=says) as error:
        make_spec("bert4mimo", options).length(shape, 1)
    assert "\n" not in str(error.value)


def test_dropout_is_drawn_in_training_only() -> None:
    spec = make_spec("bert4mimo", {**BASE, "dropout": 0.5})
    model, batch = spec.build(seed=1), make_rows(spec)
    assert isinstance(model, BertNetwork)
    assert not torch.equal(model(batch, DRAW), model(batch, DRAW))
    model.eval()
    assert torch.equal(model(batch, DRAW), model(batch, DRAW))


def test_it_learns_by_heart(spec: ModelSpec) -> None:
    losses = losses_by_heart(spec.build(seed=0), make_rows(spec, (16, 16)), lr=2e-3, steps=60)
    assert losses[-1] < 0.5 * losses[0]
