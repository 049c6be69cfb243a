"""Import takes the memory of a piece, not of the file: each format in a process that may not have the whole."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.io import savemat

from tests.channels.importers.layouts import draw

SAMPLES, SHAPE = 1500, (8, 64, 8)
WHOLE_MIB = SAMPLES * 8 * 64 * 8 * 8 // 2**20
"""46 MiB as complex64; a piece is of 1 MiB here, a shard of 4."""

IMPORT = """
import resource, sys
from pathlib import Path
import h5py, numpy, safetensors.numpy
from channels.importers import reading
from channels.importers.axes import Axes
from channels.importers.options import ImportOptions
from channels.importers.write import import_source
reading.CHUNK_BYTES = 2**20
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + int(sys.argv[4]) * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
axes = Axes.parse(sys.argv[3]) if sys.argv[3] else None
import_source(Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions(axes=axes), lambda *_: None)
"""
LIMIT_MIB = 32


def write_npy(path: Path, channel: np.ndarray) -> None:
    np.save(path, channel)


def write_last(path: Path, channel: np.ndarray) -> None:
    np.save(path, np.ascontiguousarray(channel.transpose(1, 2, 3, 0)))


def write_npz(path: Path, channel: np.ndarray) -> None:
    np.savez_compressed(path, H=channel)


def write_hdf5(path: Path, channel: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["H"] = channel


def write_mat5(path: Path, channel: np.ndarray) -> None:
    savemat(path, {"H": channel}, do_compression=True)


@pytest.fixture(scope="module")
def channel() -> np.ndarray:
    """Samples of one value each, so that they pack well and quickly."""
    return np.broadcast_to(draw(SAMPLES, 1, 1, 1), (SAMPLES, *SHAPE)).copy()


@pytest.mark.parametrize(
    ("name", "write", "axes"),
    [
        ("lab.npy", write_npy, ""),
        ("last.npy", write_last, "t,k,a,n"),
        ("lab.npz", write_npz, ""),
        ("lab.h5", write_hdf5, ""),
        ("lab.mat", write_mat5, ""),
    ],
)
def test_a_piece_at_a_time(
    tmp_path: Path, channel: np.ndarray, name: str, write: Callable[[Path, np.ndarray], None], axes: str
):
    assert WHOLE_MIB > LIMIT_MIB
    write(tmp_path / name, channel)
    command = [sys.executable, "-c", IMPORT, str(tmp_path / name), str(tmp_path / "store"), axes, str(LIMIT_MIB)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0, done.stderr[-2000:]
