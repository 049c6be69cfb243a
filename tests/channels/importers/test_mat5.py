from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from channels.importers.files.mat5 import read_variables

VALUES = {
    "scalar": 2.5,
    "row": np.arange(3.0),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "small": np.array([[1, 2]], np.uint8),
    "text": "3GPP_38.901_UMi_LOS",
}


@pytest.mark.parametrize("compressed", [False, True])
def test_what_scipy_writes_is_read(tmp_path: Path, compressed: bool) -> None:
    savemat(tmp_path / "a.mat", VALUES | {"cell": np.array([[1], "x"], object)}, do_compression=compressed)
    found = read_variables(tmp_path / "a.mat", [*VALUES, "cell", "absent"], 2**20)
    assert found.keys() == VALUES.keys()
    assert found.pop("text") == VALUES["text"]
    for name, value in found.items():
        np.testing.assert_array_equal(value, np.atleast_2d(VALUES[name]))


def test_a_few_bytes_do_not_become_gigabytes(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"zeros": np.zeros(10**6)}, do_compression=True)
    assert (tmp_path / "a.mat").stat().st_size < 2**16
    with pytest.raises(ValueError, match="larger than 65536 bytes"):
        read_variables(tmp_path / "a.mat", ["zeros"], 2**16)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match="no MATLAB v5 header"):
        read_variables(tmp_path / "a.mat", ["x"], 2**20)
