"""Operations of batches against numbers worked out by hand."""

import numpy as np

from models.registry import make_spec
from orchestrator.data.flops import packed_flops, padded_flops, valid_flops
from samplers.schedule import Slice

FORWARD = np.array([10.0, 40.0])
"""Operations of a sample of either source."""


def slice_of(source: list[int], weight: list[float]) -> Slice:
    return Slice(0, 4, np.array(source, np.int32), np.arange(len(source)), np.array(weight, np.float32), epoch=0)


def test_valid_operations_count_true_samples_padded_ones_all_as_the_largest() -> None:
    mixed, short = slice_of([0, 0, 1], [1, 1, 1]), slice_of([0, 0], [1, 0])
    # 3 passes x (10 + 10 + 40) and 3 x 10: the filler is none of the samples.
    assert valid_flops(FORWARD, [mixed, short]) == 210.0
    # 3 passes x 3 samples of 40, and 3 x 2 samples of 10: the filler is computed.
    assert padded_flops(FORWARD, mixed) == 360.0
    assert padded_flops(FORWARD, short) == 60.0
    assert packed_flops(FORWARD, mixed) == 180.0


def test_forward_operations_of_a_small_hetercsi() -> None:
    # 8 tokens (grid 2 x 2 x 2); kept: floor(8 x .15) = 1, half of the slots = 4, half of the subcarriers = 4.
    spec = make_spec("hetercsi", {"size": "tiny"})

    def macs(kept: int) -> int:
        encoder = 4 * (kept * 96 * 96 * 12 + 2 * kept * kept * 96)
        decoder = 2 * (8 * 64 * 64 * 12 + 2 * 8 * 8 * 64)
        return kept * 96 * 128 + encoder + kept * 96 * 64 + decoder + 8 * 64 * 128

    assert spec.forward_flops((8, 8, 8), 4) == 2 * (macs(1) + macs(4) + macs(4))
