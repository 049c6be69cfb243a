from collections.abc import Callable
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.verify import verify

SHARD = "shards/S1/train-00001.safetensors"


def flip(file: Path, byte: int) -> None:
    content = bytearray(file.read_bytes())
    content[byte] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "altered": lambda file: flip(file, -5),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "too long": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "missing": lambda file: file.unlink(),
}


def test_whole_store(store: Path):
    assert verify(store) == []


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_found_and_named(store: Path, kind: str):
    DAMAGES[kind](store / SHARD)
    faults = verify(store)
    assert [fault.file for fault in faults] == [SHARD] and faults[0].what.startswith(kind)


@pytest.mark.parametrize("byte", [0, 20, 200, -1])
def test_any_flipped_byte_is_found(store: Path, byte: int):
    flip(store / SHARD, byte)
    assert [fault.file for fault in verify(store)] == [SHARD]


def test_extra_file(store: Path):
    (store / "shards/S1/notes.txt").write_text("?")
    assert [(fault.file, fault.what[:5]) for fault in verify(store)] == [("shards/S1/notes.txt", "extra")]


def test_several_faults_are_all_named(store: Path):
    flip(store / SHARD, -1)
    (store / "shards/S1/val-00000.safetensors").unlink()
    assert [fault.file for fault in verify(store)] == [SHARD, "shards/S1/val-00000.safetensors"]


def test_altered_manifest(store: Path):
    manifest = store / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"role": "pretrain"', '"role": "zeroshot"'))
    with pytest.raises(UserError, match=r"manifest\.json"):
        verify(store)
