"""What replays encodings, where there is nothing to capture; ``tests/gpu/test_scan.py`` has the rest."""

import pytest
import torch

from channels.errors import UserError
from models.layers.parameters import cast_parameters
from models.scan.chunked import chunked_scan, shifted_convolution
from models.scan.operations import selective_scan
from models.scan.problem import Backend
from models.snapshot.graphs import GraphedEncode
from models.snapshot.wimamba import WiMambaSpec
from tests.models.scan.references import BOTH, operands
from tests.models.snapshots import random_channels


def test_on_a_cpu_it_encodes_as_the_model_does() -> None:
    model = WiMambaSpec(size="tiny").build(0).eval()
    channels = torch.from_numpy(random_channels(2, 16, 8)[:, 0])
    vectors = GraphedEncode(model)(channels, 4)
    assert torch.equal(vectors, model.encode_channels(channels, 4)) and not vectors.requires_grad
    with pytest.raises(UserError):
        GraphedEncode(model)(channels, 5)


@torch.no_grad()
def test_a_model_cast_to_bfloat16_keeps_the_parameters_of_its_scan() -> None:
    model = WiMambaSpec(size="tiny", patches=(4,)).build(0).eval()
    channels = torch.from_numpy(random_channels(2, 16, 8)[:, 0])
    single = model.encode_channels(channels, 4)
    cast_parameters(model, torch.bfloat16)
    kept = {name.rpartition(".")[2] for name, part in model.named_parameters() if part.dtype == torch.float32}
    assert kept == {"log_decay", "step_bias", "skip"}
    half = model.encode_channels(channels, 4)
    assert half.dtype == torch.bfloat16
    assert torch.cosine_similarity(half.float(), single, dim=-1).min() > 0.99


def test_autocast_does_not_reach_into_the_scan() -> None:
    """The chunked scan reads its states out by a product of matrices, which autocast would round."""
    parts = {name: part.float() for name, part in operands(1, 40, channels=5, states=4).items()}
    backend = Backend("torch", "", chunked_scan, shifted_convolution)
    expected = selective_scan(**parts, reverse=BOTH, backend=backend)  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16):
        found = selective_scan(**parts, reverse=BOTH, backend=backend)  # type: ignore[arg-type]
    assert torch.equal(found, expected)
