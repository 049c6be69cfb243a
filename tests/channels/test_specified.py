"""A store that is only specified has the sets, splits and shards of the one that is made."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from channels.catalogue import Counts
from channels.presets import Preset
from channels.shards import Samples
from channels.specified import specified_store
from channels.store import ChannelStore
from channels.writer import open_writer
from tests.stores import plane_waves, spec_of


@pytest.mark.parametrize("train", [128, 129, 300])
def test_it_is_laid_out_as_the_writer_does(tmp_path: Path, train: int) -> None:
    shape, held_out = (4, 4, 4), (2, 4, 4)
    preset = Preset("tiny", (spec_of("P1", shape),), (spec_of("D1", held_out),))
    counts = Counts(train=train, val=0, test=5, zeroshot_train=train - 1, zeroshot_val=3)
    with open_writer(tmp_path / "store") as writer:
        for spec, role in ((preset.pretrain[0], "pretrain"), (preset.zeroshot[0], "zeroshot")):
            wanted = counts.of(role)
            chunks = {
                split: [Samples(plane_waves(spec.shape, count, np.random.default_rng(1)), {})]
                for split, count in wanted.items()
                if count
            }
            writer.add_set(spec, role, wanted, chunks, {})
    made, specified = ChannelStore.open(tmp_path / "store"), specified_store(tmp_path / "store", preset, counts)
    assert list(made.sets) == list(specified.sets) == ["P1", "D1"]
    for name, held in made.sets.items():
        asked = specified.sets[name]
        assert (asked.spec, asked.role, set(asked.splits)) == (held.spec, held.role, set(held.splits))
        for split, part in held.splits.items():
            found = asked.splits[split]
            assert (found.count, found.shard_samples) == (part.count, part.shard_samples)
            assert [replace(shard, bytes=0, sha256="") for shard in found.shards] == [
                replace(shard, bytes=0, sha256="") for shard in part.shards
            ]
            assert all(0 < a.bytes <= b.bytes for a, b in zip(found.shards, part.shards, strict=True))


def test_a_set_without_samples_is_left_out(tmp_path: Path) -> None:
    preset = Preset("tiny", (spec_of("P1", (4, 4, 4)),), (spec_of("D1", (4, 4, 4)),))
    assert list(specified_store(tmp_path, preset, Counts(5, 0, 0)).sets) == ["P1"]
