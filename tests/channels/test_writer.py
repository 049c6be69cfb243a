import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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

# Adds set S2 to a store and stops for ever at the point that its second argument names.
WRITER = """
import sys, time
import numpy as np
import channels.writer
from channels.shards import Samples
from channels.spec import ChannelSpec

def stop(*_):
    print("here", flush=True)
    time.sleep(600)

def chunks(spec, point):
    parts = np.ones((12, *spec.shape), np.complex64)
    yield Samples(parts[:10], {})
    if point == "samples":
        stop()
    yield Samples(parts[10:], {})

path, point = sys.argv[1:]
if point == "rename":
    channels.writer.sync_folder = stop
if point == "manifest":
    channels.writer.write_atomically = stop
with channels.writer.open_writer(path, shard_samples=4) as writer:
    mapping = next(iter(writer.sets.values())).spec.to_mapping() | {"name": "S2"}
    spec = ChannelSpec.from_mapping(mapping, "test")
    writer.add_set(spec, "pretrain", {"train": 12}, {"train": chunks(spec, point)}, {})
print("done", flush=True)
"""


def run_writer(path: Path, point: str) -> subprocess.Popen[str]:
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, "-c", WRITER, str(path), point]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)


@pytest.mark.parametrize("point", ["samples", "rename", "manifest"])
def test_killed_writer_leaves_the_store_as_it_was(store: Path, point: str):
    before = ChannelStore.open(store).fingerprint
    process = run_writer(store, point)
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
    assert [fault.what[:5] for fault in verify(store)] == (["extra"] * 3 if point == "manifest" else [])

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


def test_a_full_disk_at_the_manifest_leaves_no_shards(
    store: Path, spec: ChannelSpec, noise: Draw, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = ChannelStore.open(store).fingerprint
    samples = Samples(noise(3, *spec.shape), {})
    other = replace(spec, name="S2")
    with open_writer(store) as writer:
        with monkeypatch.context() as patched, pytest.raises(UserError, match="the disk is full"):
            patched.setattr(channels.writer, "write_atomically", full)
            writer.add_set(other, "pretrain", {"train": 3}, {"train": [samples]}, {})
        assert list(writer.sets) == ["S1"]
        assert not (store / "shards/S2").exists() and verify(store) == []
        assert ChannelStore.open(store).fingerprint == before
        assert writer.add_set(other, "pretrain", {"train": 3}, {"train": [samples]}, {})
    assert list(ChannelStore.open(store).sets) == ["S1", "S2"] and verify(store) == []


def test_a_set_that_the_manifest_names_keeps_its_shards(
    store: Path, spec: ChannelSpec, noise: Draw, monkeypatch: pytest.MonkeyPatch
):
    write = channels.writer.write_atomically

    def interrupted(*arguments: Any) -> None:
        write(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(channels.writer, "write_atomically", interrupted)
    with open_writer(store) as writer, pytest.raises(KeyboardInterrupt):
        samples = {"train": [Samples(noise(3, *spec.shape), {})]}
        writer.add_set(replace(spec, name="S2"), "pretrain", {"train": 3}, samples, {})
    assert list(ChannelStore.open(store).sets) == ["S1", "S2"] and verify(store) == []


def test_what_a_write_of_the_first_manifest_left_is_no_foreign_file(tmp_path: Path, spec: ChannelSpec, noise: Draw):
    """A writer killed there leaves its temporary file beside the shards."""
    (tmp_path / "shards/S1").mkdir(parents=True)
    (tmp_path / ".manifest.json.4711-4711.tmp").write_text("{")
    with open_writer(tmp_path) as writer:
        writer.add_set(spec, "pretrain", {"train": 3}, {"train": [Samples(noise(3, *spec.shape), {})]}, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".lock", "manifest.json", "shards"]
    assert verify(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "letter.txt").touch()
    with pytest.raises(UserError, match=r"letter\.txt/store: the store cannot be written \(Not a directory\)"):
        open_writer(tmp_path / "letter.txt" / "store").__enter__()


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([{"speed": np.zeros(4)}, {}], "label 'speed' is missing for some samples"),
        ([{"speed": np.zeros(3)}, {"speed": np.zeros(5)}], "3 values of label 'speed' for 4 samples"),
        ([{"city": np.array(["a"] * 4)}, {"city": np.array(["b"] * 4)}], "label 'city' is of type <U1"),
    ],
)
def test_labels_that_could_not_be_read_again_are_refused(
    tmp_path: Path, spec: ChannelSpec, noise: Draw, chunks: list[dict[str, np.ndarray]], words: str
):
    size = 4 if "values" in words else 8
    samples = [Samples(noise(4, *spec.shape), labels) for labels in chunks]
    with open_writer(tmp_path / "new", shard_samples=size) as writer, pytest.raises(UserError, match=words):
        writer.add_set(spec, "pretrain", {"train": 8}, {"train": samples}, {})
    assert not (tmp_path / "new").exists()


def test_samples_of_another_type_are_refused(tmp_path: Path, spec: ChannelSpec, noise: Draw):
    samples = [Samples(noise(4, *spec.shape).astype(np.complex128), {})]
    with open_writer(tmp_path / "new") as writer, pytest.raises(UserError, match=r"\(complex128\)"):
        writer.add_set(spec, "pretrain", {"train": 4}, {"train": samples}, {})


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
    with pytest.raises(UserError, match="the store would be a folder"), open_writer(tmp_path / "letter.txt"):
        pass
