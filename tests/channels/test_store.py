import errno
import hashlib
import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import channels.store
from channels.errors import UserError
from channels.manifest import write_manifest
from channels.shards import Samples
from channels.spec import ChannelSpec
from channels.store import ChannelStore
from channels.verify import verify
from channels.writer import open_writer

Draw = Callable[..., np.ndarray]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 3)),
    chunks=st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any),
    shard_samples=st.integers(1, 8),
    data=st.data(),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    spec: ChannelSpec,
    noise: Draw,
    shape: tuple[int, int, int],
    chunks: list[int],
    shard_samples: int,
    data: st.DataObject,
):
    path = tmp_path_factory.mktemp("round") / "store"
    spec = replace(spec, slots=shape[0], subcarriers=shape[1], rows=1, cols=shape[2])
    total = sum(chunks)
    channel = noise(total, *shape)
    speed = np.arange(total, dtype=np.float32)
    ends = np.cumsum(chunks)
    parts = [
        Samples(channel[end - size : end], {"speed": speed[end - size : end]})
        for end, size in zip(ends, chunks, strict=True)
    ]
    with open_writer(path, shard_samples) as writer:
        assert writer.add_set(spec, "pretrain", {"train": total}, {"train": parts}, {"seed": 1})

    store = ChannelStore.open(path)
    stored = store.sets["S1"]
    assert (stored.spec, stored.role, dict(stored.origin)) == (spec, "pretrain", {"seed": 1})
    assert stored.splits["train"].count == total
    assert [shard.count for shard in stored.splits["train"].shards[:-1]] == [shard_samples] * (
        -(-total // shard_samples) - 1
    )
    assert stored.mean_power == pytest.approx(np.mean(np.abs(channel) ** 2), rel=1e-4)
    indices = np.array(data.draw(st.lists(st.integers(0, total - 1), max_size=12)), np.int64)
    read = store.read("S1", "train", indices)
    assert read.dtype == np.complex64
    np.testing.assert_array_equal(read, channel[indices])
    if len(indices):
        np.testing.assert_array_equal(store.labels("S1", "train", indices)["speed"], speed[indices])


@pytest.mark.parametrize("kind", "?bhilBHILefd")
def test_labels_of_every_kind_and_shape(tmp_path: Path, spec: ChannelSpec, noise: Draw, kind: str):
    label = np.arange(10).reshape(5, 2).astype(kind)
    with open_writer(tmp_path / "store", shard_samples=2) as writer:
        samples = Samples(noise(5, *spec.shape), {"position": label})
        writer.add_set(spec, "pretrain", {"train": 5}, {"train": [samples]}, {})
    read = ChannelStore.open(tmp_path / "store").labels("S1", "train", np.array([4, 1]))["position"]
    assert read.dtype == label.dtype
    np.testing.assert_array_equal(read, label[[4, 1]])


def test_only_touched_shards_are_mapped_and_few_stay_open(store: Path, monkeypatch: pytest.MonkeyPatch):
    opened = ChannelStore.open(store)
    assert not opened._mapped
    opened.read("S1", "train", np.array([5]))
    assert list(opened._mapped) == ["shards/S1/train-00001.safetensors"]
    monkeypatch.setattr(channels.store, "_OPEN_SHARDS", 2)
    opened.read("S1", "train", np.arange(10))
    assert list(opened._mapped) == [f"shards/S1/train-0000{index}.safetensors" for index in (1, 2)]


def test_pickled_copy_reads_the_same(store: Path):
    opened = ChannelStore.open(store)
    everything = opened.read("S1", "train", np.arange(10))
    content = pickle.dumps(opened)
    assert len(content) < everything.nbytes * 4
    copy = pickle.loads(content)
    assert not copy._mapped and copy.fingerprint == opened.fingerprint and copy.sets == opened.sets
    np.testing.assert_array_equal(copy.read("S1", "train", np.arange(10)), everything)


def test_samples_can_be_changed_without_changing_the_store(store: Path):
    opened = ChannelStore.open(store)
    opened.read("S1", "train", np.arange(10))[:] = 0
    assert np.abs(opened.read("S1", "train", np.arange(10))).min() > 0


def test_fingerprint_follows_the_content(tmp_path: Path, spec: ChannelSpec, noise: Draw):
    def fingerprint(name: str, channel: np.ndarray) -> str:
        with open_writer(tmp_path / name) as writer:
            writer.add_set(spec, "pretrain", {"train": 3}, {"train": [Samples(channel, {})]}, {})
        return ChannelStore.open(tmp_path / name).fingerprint

    same = noise(3, *spec.shape)
    other = same.copy()
    other[2, 0, 0, 0] += 1e-3
    assert fingerprint("a", same) == fingerprint("b", same) != fingerprint("c", other)


def test_unknown_set_split_and_index(store: Path):
    opened = ChannelStore.open(store)
    with pytest.raises(UserError, match=r"no set 'S2'.*S1"):
        opened.read("S2", "train", np.array([0]))
    with pytest.raises(UserError, match=r"no split 'test'.*train, val"):
        opened.read("S1", "test", np.array([0]))
    for index in (-1, 10):
        with pytest.raises(UserError, match=f"no sample {index}"):
            opened.read("S1", "train", np.array([0, index]))


def test_no_store(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere.*no such store.*wavetrain channels make"):
        ChannelStore.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"manifest\.json"):
        ChannelStore.open(tmp_path)


def test_another_schema(store: Path):
    manifest = json.loads((store / "manifest.json").read_text())
    (store / "manifest.json").write_text(json.dumps(manifest | {"schema": 7}))
    with pytest.raises(UserError, match="schema 7"):
        ChannelStore.open(store)


def test_altered_or_malformed_manifest(store: Path):
    file = store / "manifest.json"
    text = file.read_text()
    for changed in (text.replace('"count": 10', '"count": 11'), text.replace('"S1"', '"S2"'), text[:-40], "[]", "{}"):
        file.write_text(changed)
        with pytest.raises(UserError, match=r"manifest\.json"):
            ChannelStore.open(store)
    file.write_text(text.replace('"slot_ms": 0.5', '"slot_ms": -1'))
    with pytest.raises(UserError, match=r"manifest\.json \(S1\): slot_ms must be a number above 0, not -1; make or"):
        ChannelStore.open(store)
    file.write_text(text.replace('"slot_ms": 0.5', '"slot_ms": 0.25'))
    with pytest.raises(UserError, match="altered"):
        ChannelStore.open(store)


@pytest.mark.parametrize("place", ["schema", "power", "encoding", "words"])
def test_a_broken_manifest_is_one_short_line(store: Path, place: str):
    file = store / "manifest.json"
    text = file.read_text()
    changed = {
        "schema": text.replace('"schema": 1', f'"schema": "{"x" * 9999}"').encode(),
        "power": re.sub('"mean_power": [^,]*', f'"mean_power": 1{"0" * 400}', text).encode(),
        "encoding": text.encode().replace(b"S1", b"\xff"),
        "words": text.replace('"role": "pretrain"', f'"role": "{"x" * 9999}"').encode(),
    }
    file.write_bytes(changed[place])
    with pytest.raises(UserError, match=r"manifest\.json") as caught:
        ChannelStore.open(store)
    assert len(str(caught.value)) < 400 + len(str(file))


def test_manifest_cannot_point_outside_the_store(store: Path):
    sets = dict(ChannelStore.open(store).sets)
    split = sets["S1"].splits["val"]
    outside = replace(split, shards=(replace(split.shards[0], file="../outside.safetensors"),))
    sets["S1"] = replace(sets["S1"], splits={"val": outside})
    (store / "manifest.json").write_bytes(write_manifest(sets))
    with pytest.raises(UserError, match="outside"):
        ChannelStore.open(store)


def test_missing_and_truncated_shard(store: Path):
    opened = ChannelStore.open(store)
    file = store / "shards/S1/train-00002.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-8])
    with pytest.raises(UserError, match=r"train-00002.*bytes.*verify"):
        opened.read("S1", "train", np.array([9]))
    assert len(opened.read("S1", "train", np.array([0, 7]))) == 2
    file.write_bytes(b"\xff" * len(content))
    with pytest.raises(UserError, match=r"train-00002.*corrupt"):
        opened.read("S1", "train", np.array([9]))
    file.unlink()
    with pytest.raises(UserError, match=r"train-00002.*missing"):
        ChannelStore.open(store)


def test_what_cannot_be_read_is_named(store: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    opened = ChannelStore.open(store)
    monkeypatch.setattr(np, "memmap", broken)
    with pytest.raises(UserError, match=r"train-00000\.safetensors: the shard cannot be read \(Input/output error\)"):
        opened.read("S1", "train", np.array([0]))
    monkeypatch.setattr(hashlib, "file_digest", broken)
    assert [fault.what for fault in verify(store)] == ["unreadable: Input/output error"] * 4
    monkeypatch.setattr(Path, "read_bytes", broken)
    with pytest.raises(UserError, match=r"manifest\.json: the manifest cannot be read \(Input/output error\)"):
        ChannelStore.open(store)


def test_a_shard_of_other_samples_is_named_with_its_path(store: Path, spec: ChannelSpec):
    opened = ChannelStore(store, {"S1": replace(ChannelStore.open(store).sets["S1"], spec=replace(spec, slots=2))})
    with pytest.raises(UserError, match=rf"^{store}/shards/S1/train-00000\.safetensors: samples of shape"):
        opened.read("S1", "train", np.array([0]))
