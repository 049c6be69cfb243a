"""Which samples a skipped step would have trained on."""

import numpy as np

from samplers.schedule import Schedule


def skipped_samples(schedule: Schedule, epoch: int, step: int) -> dict[str, list[int]]:
    """Index of every true sample of a global step, by source."""
    found: dict[str, list[int]] = {}
    for piece in schedule.global_step(epoch, step):
        true = piece.weight > 0
        for source in np.unique(piece.source[true]):
            indices = piece.index[true & (piece.source == source)]
            found.setdefault(schedule.catalogue.sources[int(source)].name, []).extend(map(int, indices))
    return found
