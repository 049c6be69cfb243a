"""Files of arrays: old and new MATLAB, locks and writers, links that lead out, slices along any axis."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from channels.errors import UserError
from channels.importers.files.arrays import StoredArray
from channels.importers.files.contents import contents, kind_of
from tests.channels.importers.layouts import draw, load, write_split


def one(path: Path) -> StoredArray:
    (array,) = contents(path).arrays
    return array


DTYPES = ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "c8", "c16", ">f4", "?")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from(DTYPES),
    how=st.sampled_from(["c", "fortran", "stored", "packed", "hdf5", "chunked", "v5", "v5 packed", "v7.3"]),
    cut=st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(1, 5)),
    seed=st.integers(0, 99),
)
def test_a_slice_is_what_numpy_cuts(
    tmp_path: Path, shape: list[int], dtype: str, how: str, cut: tuple[int, int, int], seed: int
):
    drawn = 100 * draw(*shape, seed=seed)
    values = (drawn if np.dtype(dtype).kind == "c" else drawn.real).astype(dtype)
    if how.startswith("v5"):
        values = np.atleast_2d(values.astype("f4") if dtype == "f2" else values)
    path = tmp_path / {"c": "a.npy", "fortran": "a.npy", "stored": "a.npz", "packed": "a.npz"}.get(how, "a.mat")
    write(path, values, how)
    array = one(path)
    axis = cut[0] % values.ndim
    start = cut[1] % values.shape[axis]
    end = min(start + cut[2], values.shape[axis])
    assert array.shape == values.shape and array.is_complex == (values.dtype.kind == "c")
    with array.opened() as slices:
        found = slices(axis, start, end)
    np.testing.assert_array_equal(found, values[(slice(None),) * axis + (slice(start, end),)])


def write(path: Path, values: np.ndarray, how: str) -> None:
    if how in ("c", "fortran"):
        np.save(path, np.asfortranarray(values) if how == "fortran" else values)
    elif how in ("stored", "packed"):
        (np.savez if how == "stored" else np.savez_compressed)(path, a=values)
    elif how in ("v5", "v5 packed"):
        savemat(path, {"a": values}, do_compression=how == "v5 packed")
    else:
        chunks = {"chunks": True, "compression": "gzip"} if how == "chunked" else {}
        with h5py.File(path, "w") as file:
            # A file called .mat shows the axes of HDF5 in reverse.
            file.create_dataset("a", data=values.T, **chunks)


def test_matlab_keeps_whole_numbers_small(tmp_path: Path):
    """A double array of small whole numbers is written as bytes; it is read by what it was stored as."""
    file = tmp_path / "a.mat"
    savemat(file, {"a": np.arange(6, dtype=np.uint8).reshape(2, 3)})
    assert one(file).dtype == np.uint8


@pytest.mark.parametrize("size", [100, 200, 1000])
def test_matlab_5_that_is_cut_off(tmp_path: Path, size: int):
    file = tmp_path / "a.mat"
    savemat(file, {"a": draw(40, 5)})
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(UserError, match=r"a\.mat.*(broken|recognised)"):
        contents(file)


def test_links_that_lead_out_of_a_file_are_not_followed(tmp_path: Path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["H"] = draw(3, 4)
    layout = h5py.VirtualLayout((3, 4), "c8")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "H", (3, 4))
    (tmp_path / "raw.bin").write_bytes(bytes(64))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["outside"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "H")
        file["soft"] = h5py.SoftLink("/nowhere")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("external", (4,), "f4", external=[(str(tmp_path / "raw.bin"), 0, 64)])
        file["mine"] = draw(3, 4)
    held = contents(tmp_path / "a.h5")
    assert [array.key for array in held.arrays] == ["mine"]
    assert dict(held.passed) == dict.fromkeys(("virtual", "external"), "its values lie in other files")


HOLDER = """
import sys, time, h5py, numpy as np
file = h5py.File(sys.argv[1], "a", libver=sys.argv[2] or None)
file["more"] = np.arange(3)
if sys.argv[3]:
    file.flush()
print("here", flush=True)
time.sleep(600)
"""


def hold(path: Path, version: str, flush: str) -> subprocess.Popen[str]:
    """A process that has a file open for writing."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER), str(path), version, flush]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "here\n"
    return process


def test_a_file_that_another_process_has_open_is_read(tmp_path: Path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["H"] = draw(3, 4, 2)
    process = hold(path, "", "flush")
    try:
        assert load(path, tmp_path / "store").sets["a"].splits["train"].count == 3
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("version", "flush"), [("latest", "flush"), ("latest", ""), ("", "")])
def test_a_file_that_is_being_written_is_not_called_damaged(tmp_path: Path, version: str, flush: str):
    path = tmp_path / "a.h5"
    process = hold(path, version, flush)
    try:
        with pytest.raises(UserError) as caught:
            load(path, tmp_path / "store")
        assert "another process has it open" in str(caught.value)
        assert "damaged" not in str(caught.value) and "fetch" not in str(caught.value)
    finally:
        process.kill()
        process.wait()


def test_two_readers_at_once_need_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A reader that locks would be refused by the lock of another; so would one on storage without locks."""
    import fcntl

    write_split(tmp_path / "zeroshot" / "D3", "test", draw(2, 24, 32, 8))
    with (tmp_path / "zeroshot/D3/test_data.mat").open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert list(load(tmp_path, tmp_path / "store").sets) == ["D3"]


def test_a_cut_hdf5_file_is_called_cut_off(tmp_path: Path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["H"] = draw(300, 4, 2)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a\.h5: it is cut off"):
        contents(path)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x93NUMPY\x01\x00", "npy"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM", "mat5"),
        (b"MATLAB 7.3 MAT-file".ljust(124), "a MATLAB 7.3 file that is cut off or overwritten: fetch it again"),
        (
            b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(9999),
            "a MATLAB 7.3 file that is cut off or overwritten: fetch it again",
        ),
        (b"", "an empty file"),
    ],
)
def test_a_kind_is_told_by_its_first_bytes(tmp_path: Path, content: bytes, kind: str):
    path = tmp_path / "anything.bin"
    path.write_bytes(content)
    assert kind_of(path) == kind


def test_torch_tensors_of_every_kind(tmp_path: Path):
    torch: Any = pytest.importorskip("torch")
    base = torch.from_numpy(draw(6, 4))
    tensors = {
        "strided": base[::2, 1:],
        "transposed": base.T,
        "conjugate": base.conj(),
        "gradient": torch.ones(3, requires_grad=True),
        "brain": torch.arange(4, dtype=torch.bfloat16),
        "sparse": torch.eye(3).to_sparse(),
        "words": "hello",
    }
    torch.save(tensors, tmp_path / "a.pt")
    held = contents(tmp_path / "a.pt")
    assert {key for key, _ in held.passed} == {"sparse", "words"}
    for array in held.arrays:
        with array.opened() as slices:
            found = slices(0, 0, array.shape[0])
        expected = tensors[array.key].detach().resolve_conj()
        expected = expected.float() if array.key == "brain" else expected
        np.testing.assert_array_equal(found, expected.numpy())


def test_looking_is_quick(tmp_path: Path):
    """No value is read: a file that claims a terabyte is looked at as quickly as any."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("H", (10**8, 128, 8), "c8", chunks=(1, 128, 8))
    started = time.monotonic()
    assert one(tmp_path / "a.h5").shape == (10**8, 128, 8)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5"])
@pytest.mark.parametrize("part", ["<f4", ">f8"])
def test_records_of_two_parts_are_complex_in_every_file(tmp_path: Path, suffix: str, part: str):
    values = draw(3, 2, 4, 1)
    records = np.empty(values.shape, [("real", part), ("imag", part)])
    records["real"], records["imag"] = values.real, values.imag
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, records)
    elif suffix == "npz":
        np.savez(path, a=records)
    else:
        with h5py.File(path, "w") as file:
            file["a"] = records
    array = one(path)
    with array.opened() as slices:
        np.testing.assert_allclose(slices(0, 1, 3), values[1:], rtol=1e-6)
    assert array.is_complex


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_tensors_of_rare_types_are_read_or_named(tmp_path: Path):
    import torch

    values = torch.from_numpy(draw(3, 2, 4, 1))
    tensors = {"half": values.to(torch.complex32), "tiny": values.real.to(torch.float8_e4m3fn), "sparse": torch.eye(3)}
    tensors["sparse"] = tensors["sparse"].to_sparse()
    torch.save(tensors, tmp_path / "a.pt")
    found = contents(tmp_path / "a.pt")
    (array,) = found.arrays
    assert array.key == "half" and [name for name, _ in found.passed] == ["tiny", "sparse"]
    with array.opened() as slices:
        np.testing.assert_allclose(slices(0, 0, 3), values.numpy(), atol=2e-2)
