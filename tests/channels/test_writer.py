import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import channels.writer
from channels.errors import UserError
from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from channels.verify import verify
from channels.writer import open_writer

Draw = Callable[..., np.ndarray]

# Adds set S2 to a store and stops for ever at the place that its second argument names.
WRITER = """
import sys, time
import numpy as np
import channels.writer
from channels.shards import Samples
from channels.spec import ChannelSpec

def stop(*_):
    print("here", flush=True)
    time.sleep(600)

def chunks(spec, place):
    parts = np.ones((12, *spec.shape), np.complex64)
    yield Samples(parts[:10], {})
    if place == "samples":
        stop()
    yield Samples(parts[10:], {})

path, place = sys.argv[1:]
if place == "rename":
    channels.writer.sync_folder = stop
if place == "manifest":
    channels.writer.write_atomically = stop
with channels.writer.open_writer(path, shard_samples=4) as writer:
    mapping = next(iter(writer.sets.values())).spec.to_mapping() | {"name": "S2"}
    spec = ChannelSpec.from_mapping(mapping, "test")
    writer.add_set(spec, "pretrain", {"train": 12}, {"train": chunks(spec, place)}, {})
print("done", flush=True)
"""


def run_writer(path: Path, place: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(path), place]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)


@pytest.mark.parametrize("place", ["samples", "rename", "manifest"])
def test_killed_writer_leaves_the_store_as_it_was(store: Path, place: str):
    before = ChannelStore.open(store).fingerprint
    process = run_writer(store, place)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    with pytest.raises(UserError, match="another process is writing"), open_writer(store):
        pass
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    process.stdout.close()

    left = [file for file in (store / "shards").rglob("*.safetensors") if file.parent.name != "S1"]
    assert left, "the writer was killed before it wrote anything"
    after = ChannelStore.open(store)
    assert after.fingerprint == before and list(after.sets) == ["S1"]
    assert len(after.read("S1", "train", np.arange(10))) == 10
    assert [fault.what[:5] for fault in verify(store)] == (["extra"] * 3 if place == "manifest" else [])

    following = run_writer(store, "nowhere")
    assert following.communicate(timeout=120)[0] == "done\n"
    assert list(ChannelStore.open(store).sets) == ["S1", "S2"] and verify(store) == []
    assert not (store / "shards/.incoming").exists()


def test_two_writers_are_refused(store: Path):
    with open_writer(store), pytest.raises(UserError, match="another process is writing"), open_writer(store):
        pass
    with open_writer(store):
        pass


def test_same_set_is_skipped_without_drawing_its_samples(store: Path, spec: ChannelSpec):
    def never() -> Iterator[Samples]:
        raise AssertionError("drawn")
        yield

    with open_writer(store) as writer:
        counts = {"train": 10, "val": 3, "test": 0}
        assert not writer.add_set(spec, "pretrain", counts, {"train": never(), "val": never()}, {"seed": 0})


@pytest.mark.parametrize(
    ("change", "role", "train", "seed", "word"),
    [
        ({"fc_ghz": 3.5}, "pretrain", 10, 0, "fc_ghz"),
        ({}, "zeroshot", 10, 0, "role"),
        ({}, "pretrain", 11, 0, "train samples"),
        ({}, "pretrain", 10, 1, "origin"),
    ],
)
def test_another_set_of_the_same_name_is_refused(
    store: Path, spec: ChannelSpec, change: dict, role: str, train: int, seed: int, word: str
):
    before = (store / "manifest.json").read_bytes()
    with open_writer(store) as writer, pytest.raises(UserError, match=rf"S1.*{word}"):
        writer.add_set(replace(spec, **change), role, {"train": train, "val": 3}, {}, {"seed": seed})
    assert (store / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
def test_unusable_sample_is_named_and_nothing_is_left(tmp_path: Path, spec: ChannelSpec, noise: Draw, value: float):
    channel = noise(10, *spec.shape)
    channel[6] = value
    with (
        open_writer(tmp_path / "new", shard_samples=4) as writer,
        pytest.raises(UserError, match=r"S1/train.*sample 6"),
    ):
        writer.add_set(spec, "pretrain", {"train": 10}, {"train": [Samples(channel, {})]}, {})
    assert not (tmp_path / "new").exists()


def test_other_shape_or_count_than_announced(tmp_path: Path, spec: ChannelSpec, noise: Draw):
    with open_writer(tmp_path / "new") as writer:
        for channel, word in ((noise(3, 3, 6, 4), "shape"), (noise(2, *spec.shape), "announced")):
            with pytest.raises(UserError, match=word):
                writer.add_set(spec, "pretrain", {"train": 3}, {"train": [Samples(channel, {})]}, {})
    assert not (tmp_path / "new").exists()


def test_full_disk(store: Path, spec: ChannelSpec, noise: Draw, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = ChannelStore.open(store).fingerprint
    monkeypatch.setattr(channels.writer, "write_shard", full)
    samples = {"train": [Samples(noise(3, *spec.shape), {})]}
    with open_writer(store) as writer, pytest.raises(UserError, match="the disk is full"):
        writer.add_set(replace(spec, name="S2"), "pretrain", {"train": 3}, samples, {})
    assert ChannelStore.open(store).fingerprint == before and verify(store) == []


def test_foreign_folder_is_not_touched(tmp_path: Path):
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(UserError, match=r"letter\.txt"), open_writer(tmp_path):
        pass
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="a file is in the place"), open_writer(tmp_path / "letter.txt"):
        pass
