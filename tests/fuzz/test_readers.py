"""Readers survive hostile files: one line for the user, in bounded time and memory, and nothing written elsewhere."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from channels.manifest import shard_file
from channels.shards import Samples
from channels.writer import open_writer
from orchestrator.checkpoint.format import SCHEMA, CheckpointInfo, file_digest, find_damage, write_info
from orchestrator.checkpoint.fragments import MOMENTS, WEIGHT
from tests.channels.importers.layouts import D3, write_config, write_cost2100, write_split, write_wifo
from tests.channels.importers.test_deepmimo import PAIR, write_scenario
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


def test_hetercsi(tmp_path: Path) -> None:
    folder = tmp_path / "source" / "zeroshot" / "D3"
    write_split(folder, "test", plane_waves(D3.shape, 2, np.random.default_rng(1)))
    write_config(folder, D3)
    files = {"zeroshot/D3/test_data.mat": mutate_bytes, "zeroshot/D3/config.mat": mutate_bytes}
    hammer(Target(tmp_path / "source", files, readers.import_folder), 220, tmp_path / "scratch")


CHANNEL = plane_waves((2, 8, 4), 6, np.random.default_rng(1))


def write_npy(folder: Path) -> None:
    np.save(folder / "lab.npy", CHANNEL)
    np.save(folder / "labels.npy", np.arange(6))


def write_npz(folder: Path) -> None:
    np.savez(folder / "lab.npz", H=CHANNEL, los=np.arange(6), fc=np.float64(3.5e9))
    np.savez_compressed(folder / "packed.npz", H_train=CHANNEL, H_val=CHANNEL[:2])


def write_hdf5(folder: Path) -> None:
    import h5py

    with h5py.File(folder / "lab.h5", "w") as file:
        file.create_dataset("group/H", data=CHANNEL, chunks=(2, 2, 8, 4), compression="gzip")
        file["labels"] = np.arange(6)
    with h5py.File(folder / "parts.h5", "w") as file:
        file["H_real"], file["H_imag"] = CHANNEL.real, CHANNEL.imag


def write_mat5(folder: Path) -> None:
    from scipy.io import savemat

    write_wifo(folder / "D20", CHANNEL, old=True)
    savemat(folder / "lab.mat", {"H": CHANNEL, "labels": np.arange(6.0), "name": "lab"})


def write_taps(folder: Path) -> None:
    write_cost2100(folder, "in", {"train": 2})


def write_torch(folder: Path) -> None:
    import torch

    torch.save({"channels": torch.from_numpy(CHANNEL[:, 0]), "labels": torch.arange(6)}, folder / "task.pt")
    old = [torch.from_numpy(row) for row in CHANNEL[:, 0]]
    torch.save(old, folder / "old.pt", _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [write_npy, write_npz, write_hdf5, write_mat5, write_taps, write_torch])
def test_arrays(tmp_path: Path, write: Callable[[Path], None]) -> None:
    good = tmp_path / "good"
    good.mkdir()
    write(good)
    files = {str(path.relative_to(good)): mutate_bytes for path in good.rglob("*") if path.is_file()}
    read = readers.import_torch if write is write_torch else readers.import_folder
    hammer(Target(good, files, read), 120, tmp_path / "scratch")


def test_spec_of_an_import(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.mkdir()
    np.save(good / "lab.npy", CHANNEL)
    lines = [
        "fc_ghz: 3.5",
        "slots: 2",
        "rows: 2",
        "cols: 2",
        "speed_kmh: [0, 3]",
        "los: null",
        "sets: {lab: {slot_ms: 1}}",
    ]
    (good / "spec.yaml").write_text("\n".join(lines))
    hammer(Target(good, {"spec.yaml": mutate_yaml}, readers.import_with_spec), 220, tmp_path / "scratch")


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


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A complete checkpoint of one rank."""
    folder = tmp_path / "checkpoints" / "step-000000005"
    folder.mkdir(parents=True)
    tensors = {
        f"{name}/0/{kind}": np.arange(8, dtype=np.float32) for name in ("a.w", "a.b") for kind in (WEIGHT, *MOMENTS)
    }
    save_file(tensors, folder / "rank-0.safetensors")
    file = folder / "rank-0.safetensors"
    info = CheckpointInfo(
        schema=SCHEMA, step=5, optimizer_step=5, seed=1, world_size=1, zero_stage=0, fingerprint="f",
        sampler={"epoch": 0, "step": 5}, train_seconds=1.0, epoch_totals=(1.0, 2, 3), mlflow_run_id=None, versions={},
        files={file.name: (file.stat().st_size, file_digest(file))},
    )  # fmt: skip
    write_info(folder, info)
    assert find_damage(folder) is None
    return folder


@pytest.mark.parametrize("read", [readers.read_checkpoint, readers.read_forged_checkpoint])
def test_checkpoint(tmp_path: Path, state: Path, read: object) -> None:
    files = {f"{state.name}/checkpoint.json": mutate_json, f"{state.name}/rank-0.safetensors": mutate_bytes}
    hammer(Target(state.parent, files, read), 220, tmp_path / "scratch")


def test_state_file(tmp_path: Path, state: Path) -> None:
    hammer(Target(state, {"rank-0.safetensors": mutate_bytes}, readers.read_state_file), 220, tmp_path / "scratch")


def test_job_spec(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(ROOT / "jobs" / "demo.yaml", tmp_path / "good" / "job.yaml")
    hammer(Target(tmp_path / "good", {"job.yaml": mutate_yaml}, readers.read_job), 220, tmp_path / "scratch")


def test_cluster_file(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    shutil.copy(ROOT / "cluster.yaml", tmp_path / "good" / "cluster.yaml")
    hammer(Target(tmp_path / "good", {"cluster.yaml": mutate_yaml}, readers.read_cluster), 220, tmp_path / "scratch")
