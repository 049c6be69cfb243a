"""Readers survive hostile files: one line for the user, in bounded time and memory, and nothing written elsewhere."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from channels.manifest import shard_file
from channels.shards import Samples
from channels.writer import open_writer
from tests.channels.test_deepmimo import PAIR, write_scenario
from tests.channels.test_hetercsi_mat import D3, write_config, write_split
from tests.fuzz import readers
from tests.fuzz.hammer import Target, hammer
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_yaml
from tests.stores import plane_waves, spec_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    random = np.random.default_rng(1)
    with open_writer(path, shard_samples=4) as writer:
        for name, shape in (("P01", (3, 6, 2)), ("P02", (2, 4, 4))):
            samples = Samples(plane_waves(shape, 10, random), {"speed_kmh": np.zeros(10, np.float32)})
            writer.add_set(spec_of(name, shape), "pretrain", {"train": 10}, {"train": [samples]}, {"seed": 0})
    return path


def test_mat(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "zeroshot" / "D3"
    write_split(folder, "test", plane_waves(D3.shape, 2, np.random.default_rng(1)))
    write_config(folder, D3)
    files = {"zeroshot/D3/test_data.mat": mutate_bytes, "zeroshot/D3/config.mat": mutate_bytes}
    hammer(Target(tmp_path / "source", files, readers.import_mat), 220, tmp_path / "scratch")


def test_deepmimo(tmp_path: Path) -> None:
    pytest.importorskip("deepmimo", reason="the extra deepmimo is not installed")
    good = write_scenario(tmp_path / "free_space")
    files = {path.name: mutate_json if path.suffix == ".json" else mutate_bytes for path in good.iterdir()}
    assert f"power_{PAIR}.npz" in files and "params.json" in files
    hammer(Target(good, files, readers.import_scenario), 220, tmp_path / "scratch")


@pytest.mark.parametrize("read", [readers.open_store, readers.open_forged_store])
def test_manifest(tmp_path: Path, store: Path, read: object) -> None:
    hammer(Target(store, {"manifest.json": mutate_json}, read), 220, tmp_path / "scratch")


def test_shard(tmp_path: Path, store: Path) -> None:
    files = {shard_file(name, "train", index): mutate_bytes for name in ("P01", "P02") for index in range(3)}
    hammer(Target(store, files, readers.open_store), 220, tmp_path / "scratch")


def test_job_spec(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(ROOT / "jobs" / "demo.yaml", tmp_path / "good" / "job.yaml")
    hammer(Target(tmp_path / "good", {"job.yaml": mutate_yaml}, readers.read_job), 220, tmp_path / "scratch")


def test_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(ROOT / "cluster.yaml", tmp_path / "good" / "cluster.yaml")
    hammer(Target(tmp_path / "good", {"cluster.yaml": mutate_yaml}, readers.read_cluster), 220, tmp_path / "scratch")
