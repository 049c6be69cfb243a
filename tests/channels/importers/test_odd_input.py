"""Input that is plausible and wrong: one line that names it, no traceback and no other number in its place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.found import Survey
from channels.importers.options import ImportOptions
from channels.importers.survey import survey
from channels.importers.write import named_for
from channels.store import ChannelStore
from channels.verify import verify
from channels.writer import open_writer
from jobs.launch.run_list import find_run
from orchestrator.data.planned_store import store_to_plan
from orchestrator.spec.store_preset import StorePreset
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


def test_a_link_to_itself_and_a_folder_that_one_may_not_enter_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("shut", "open"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "open" / "a.npy", CHANNEL)
    (tmp_path / "open" / "x.npy").symlink_to("x.npy")
    refuse_below(tmp_path / "shut", monkeypatch)
    found = survey(tmp_path, ImportOptions())
    assert [one.name for one in found.sets] == ["a"]
    assert {left.what: left.why for left in found.left_out} == {
        "open/x.npy": "cannot be looked at (Too many levels of symbolic links)",
        "shut": "not allowed to look into it",
    }


@pytest.mark.parametrize("beside", ["config.mat", "manifest.json"])
def test_a_description_that_one_may_not_read_does_not_end_in_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beside: str
):
    np.savez(tmp_path / "a.npz", H=CHANNEL)
    (tmp_path / beside).write_bytes(b"{}")
    opened = Path.open

    def refuse(self: Path, *args: Any, **how: Any) -> Any:
        if self.name == beside:
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **how)

    monkeypatch.setattr(Path, "open", refuse)
    found = survey(tmp_path, ImportOptions())
    assert [left.what for left in found.left_out] == [beside]


def refuse_below(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system says of paths in a folder that one may not enter; root may enter every one."""
    stat = Path.stat

    def refuse(self: Path, **how: Any) -> os.stat_result:
        if folder in self.parents:
            raise PermissionError(13, "Permission denied", str(self))
        return stat(self, **how)

    monkeypatch.setattr(Path, "stat", refuse)


def named(store: Path) -> object:
    return named_for(Survey(store, (), ()), store, ImportOptions())


LOOKS: dict[str, Callable[[Path], object]] = {
    "source": lambda path: survey(path, ImportOptions()),
    "store": named,
    "open": ChannelStore.open,
    "verify": verify,
    "write": lambda path: open_writer(path).__enter__(),
    "plan": lambda path: store_to_plan(path, StorePreset(name="demo")),
    "run": lambda path: find_run(str(path), []),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_path_that_cannot_be_looked_at_is_one_line(tmp_path: Path, look: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match="File name too long"):
        LOOKS[look](tmp_path / ("x" * 256))
    (tmp_path / "shut").mkdir()
    refuse_below(tmp_path / "shut", monkeypatch)
    with pytest.raises(UserError, match=r"shut/a.*: cannot be looked at \(Permission denied\)"):
        LOOKS[look](tmp_path / "shut" / "a")


def test_a_pipe_is_no_source(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(UserError, match="a pipe or a device is not read"):
        survey(tmp_path / "pipe.npy", ImportOptions())
