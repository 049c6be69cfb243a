"""Our networks against the published ones, weight for weight: the same outputs of the same inputs.

The weights take the way of a user's: a file of torch.save, ``wavetrain models import``, an export. Ours computes in
float64, so that the gap is the rounding of the published network alone, on any machine.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.export import load_model
from models.interface import MaskDraw, ModelSpec, PretrainingModel, TokenBatch, Tokens, collate
from models.registry import make_spec
from models.released.autoencoders import wifo_orders
from models.released.importing import import_released
from models.released.snapshots import published_order
from tests.models.oracles import Oracle, largest_gap, read_oracle

TASKS = {"time": 1, "frequency": 2}
"""Tasks of the oracle that draw no mask, and their column among ours."""


def imported(oracle: Oracle, name: str, folder: Path) -> tuple[ModelSpec, PretrainingModel]:
    torch.save({"model": {f"module.{key}": value for key, value in oracle.weights.items()}}, folder / "released.pth")
    import_released(folder / "released.pth", name, None, folder / "export")
    spec, model = load_model(folder / "export")
    return spec, model.double().eval()


def hetercsi_batch(oracle: Oracle) -> TokenBatch:
    """The oracle's tokens, of samples of 16 slots, 32 subcarriers and 8 antennas."""
    tokens = oracle.tensors["tokens"]
    parts = [Tokens(values=tokens.numpy(), elements=None, grid=(4, 8, 2))]
    return collate(parts, np.arange(len(tokens)), np.ones(len(tokens), np.float32), 4)


@torch.inference_mode()
def test_hetercsi_predicts_what_the_published_network_does(tmp_path: Path) -> None:
    oracle = read_oracle("hetercsi_tiny")
    spec, model = imported(oracle, "hetercsi", tmp_path)
    assert spec == make_spec("hetercsi", {"size": "tiny"})
    batch = hetercsi_batch(oracle)
    for task, column in TASKS.items():
        predicted = model.predict(batch, task, seed=0)
        assert torch.equal(predicted.masked, oracle.tensors[f"masked/{task}"])
        masked = predicted.masked
        assert largest_gap(predicted.values[masked], oracle.tensors[f"prediction/{task}"][masked]) < 2e-6
        loss = model(batch, MaskDraw(0, 0))[column] / masked.sum()
        assert float(loss) == pytest.approx(float(oracle.tensors[f"loss/{task}"]), rel=1e-6)


@torch.inference_mode()
def test_wifo_predicts_what_the_published_network_does(tmp_path: Path) -> None:
    oracle = read_oracle("wifo_tiny")
    spec, model = imported(oracle, "wifo", tmp_path)
    assert spec == make_spec("wifo", {"size": "tiny", "position": "published"})
    # re/im, slots, antennas, subcarriers; the published tokens have the antennas outside, ours inside.
    stored = oracle.tensors["channels"]
    channels = torch.complex(stored[:, 0], stored[:, 1]).transpose(2, 3).numpy()
    parts = [spec.tokenise(channels, 4)]
    batch = collate(parts, np.arange(len(channels)), np.ones(len(channels), np.float32), 4)
    slots, subcarriers, antennas = parts[0].grid
    ours = torch.arange(slots * subcarriers * antennas).view(slots, antennas, subcarriers).transpose(1, 2).flatten()
    outputs = wifo_orders()[1]
    for task, column in TASKS.items():
        predicted = model.predict(batch, task, seed=0)
        assert torch.equal(predicted.masked, oracle.tensors[f"masked/{task}"][:, ours])
        halves = [oracle.tensors[f"prediction_{part}/{task}"] for part in ("real", "imag")]
        theirs = torch.cat(halves, dim=2)[:, ours][..., outputs]
        masked = predicted.masked
        assert largest_gap(predicted.values[masked], theirs[masked]) < 2e-6
        loss = model(batch, MaskDraw(0, 0))[column] / masked.sum()
        assert float(loss) == pytest.approx(float(oracle.tensors[f"loss/{task}"]), rel=1e-6)


@pytest.mark.parametrize(("name", "bound"), [("wimamba", 3e-6), ("lwm", 3e-6)])
@torch.inference_mode()
def test_a_network_of_snapshots_computes_what_the_published_one_does(name: str, bound: float, tmp_path: Path) -> None:
    """Hidden states of all tokens, and the decoded ones of all but the class token."""
    oracle = read_oracle(name)
    spec, model = imported(oracle, name, tmp_path)
    assert spec == make_spec(name, {})
    order = published_order(4)
    tokens = oracle.tensors["tokens"][:, 1:, order].double()
    hidden = model.encode_tokens(tokens, 4)
    decoded = torch.empty_like(tokens)
    decoded[..., order] = model.head(hidden[:, 1:], 4)
    assert largest_gap(hidden, oracle.tensors["hidden"]) < bound
    assert largest_gap(decoded, oracle.tensors["decoded"]) < bound
