"""Input that is plausible and wrong: one line that names it, no traceback and no other number in its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.options import ImportOptions
from channels.importers.survey import survey
from tests.channels.importers.layouts import draw

CHANNEL = draw(6, 4, 8, 2)
PARTS = (6, 4, 8, 2)
NO_NUMBERS = {
    "bytes": np.full(PARTS, b"ab"),
    "text": np.full(PARTS, "1.5"),
    "dates": np.zeros(PARTS, "M8[s]"),
    "records": np.zeros(PARTS, [("x", "f4"), ("y", "f4")]),
    "nothing": np.zeros(PARTS, "V8"),
    "truth values": np.ones(PARTS, bool),
}


@pytest.mark.parametrize("options", [{}, {"axes": Axes.parse("n,t,k,re,im")}, {"key": "H"}], ids=["", "axes", "key"])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_arrays_that_are_not_numbers_are_no_channels(tmp_path: Path, kind: str, options: dict[str, Any]):
    values = NO_NUMBERS[kind]
    np.save(tmp_path / "H.npy", values)
    np.savez(tmp_path / "H.npz", H=values)
    np.savez(tmp_path / "pair.npz", H_real=values, H_imag=values)
    for name in ("H.npy", "H.npz", "pair.npz"):
        with pytest.raises(UserError, match=r"no (array of channels|variable H): it holds") as caught:
            survey(tmp_path / name, ImportOptions(**options))
        assert ("of type" in str(caught.value)) == (kind != "truth values")


def test_a_layout_that_names_its_variable_takes_no_truth_values(tmp_path: Path):
    np.savez(tmp_path / "DATA_Htrainin.npz", HT=np.ones((6, 2048), bool))
    with pytest.raises(UserError, match=r"HT bool \(6, 2048\): truth values"):
        survey(tmp_path, ImportOptions())
