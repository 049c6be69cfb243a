"""Input that is plausible and wrong: one line that names it, no traceback and no other number in its place."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from channels.errors import UserError
from channels.importers.axes import Axes
from channels.importers.formats.deepmimo_users import speeds_of
from channels.importers.found import Survey
from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import refuse_unused, survey
from channels.importers.write import named_for
from channels.store import ChannelStore
from channels.verify import verify
from channels.writer import open_writer
from jobs.launch.run_list import find_run
from orchestrator.data.planned_store import store_to_plan
from orchestrator.spec.store_preset import StorePreset
from tests.channels.importers.layouts import TINY, draw, labels, load, write_config

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


@pytest.mark.parametrize("name", ["labels", "y", "target_class"])
def test_labels_that_are_too_few_are_no_constants(tmp_path: Path, name: str):
    np.savez(tmp_path / "a.npz", H=CHANNEL, **{name: np.arange(5)})
    found = survey(tmp_path / "a.npz", ImportOptions())
    assert [(left.what, left.why) for left in found.left_out] == [
        (f"a.npz: {name}", "(5,) is no entry for each of the 6 samples of H")
    ]


@pytest.mark.parametrize("files", [1, 2])
def test_what_is_constant_in_one_split_is_so_in_all(tmp_path: Path, files: int):
    splits, sender = {"train": CHANNEL, "val": CHANNEL[:3]}, np.arange(3.0)
    if files == 1:
        np.savez(tmp_path / "a.npz", tx_pos=sender, **{f"H_{split}": values for split, values in splits.items()})
    else:
        for split, values in splits.items():
            np.savez(tmp_path / f"a_{split}.npz", H=values, tx_pos=sender)
    store = load(tmp_path, tmp_path / "store")
    for split, values in splits.items():
        np.testing.assert_array_equal(labels(store, "a", split)["tx_pos"], np.tile(sender, (len(values), 1)))


@pytest.mark.parametrize(("count", "fits"), [(1, True), (5, False), (6, True)])
def test_speeds_are_one_a_sample_or_one_for_all(tmp_path: Path, count: int, fits: bool):
    folder = tmp_path / "D99"
    write_config(folder, TINY)
    savemat(folder / "train_data.mat", {"H_train": CHANNEL, "speed_train": np.arange(float(count))[:, None]})
    if fits:
        assert load(folder, tmp_path / "store").sets["D99"].splits["train"].count == 6
        return
    with pytest.raises(UserError, match="speed_train does not have one value a sample"):
        survey(folder, ImportOptions())


@pytest.mark.parametrize(
    "position",
    [np.zeros((6, 0)), np.zeros((6, 3), complex), np.ones((6, 3), bool), np.full((6, 3), 1e300)],
    ids=["no coordinates", "complex", "truth values", "huge"],
)
def test_positions_that_are_no_coordinates_do_not_split(
    tmp_path: Path, position: np.ndarray, recwarn: pytest.WarningsRecorder
):
    np.savez(tmp_path / "a.npz", H=CHANNEL, pos=position)
    (found,) = survey(tmp_path / "a.npz", ImportOptions(val_share=0.5)).sets
    assert found.counts == {"train": 3, "val": 3}
    assert ("val: the last samples" in found.notes) == (position.dtype.kind != "f" or not position.size)
    assert not recwarn.list


def test_a_scene_whose_carrier_no_float_holds_is_not_described(tmp_path: Path):
    np.savez(tmp_path / "a.npz", H=CHANNEL)
    (tmp_path / "manifest.json").write_text(f'{{"a": {{"fc": 1{"0" * 400}, "axes": ""}}}}')
    found = survey(tmp_path, ImportOptions())
    assert found.sets[0].parameters["fc_ghz"].source == "assumed"
    assert [left.what for left in found.left_out] == ["manifest.json"]


def test_a_wrong_parameter_is_blamed_on_what_says_it(tmp_path: Path):
    np.save(tmp_path / "a.npy", CHANNEL)
    with pytest.raises(UserError, match=r"a\.npy, --spec p\.yaml \(a\): fc_ghz must be .* not 'abc'; for example"):
        survey(tmp_path, ImportOptions(given=GivenParameters("p.yaml", {"fc_ghz": "abc"})))
    write_config(tmp_path / "D99", TINY, K=-8.0)
    savemat(tmp_path / "D99" / "train_data.mat", {"H_train": CHANNEL})
    with pytest.raises(UserError, match=r"D99, config\.mat \(D99\): subcarriers must be .* not -8; for example"):
        survey(tmp_path / "D99", ImportOptions())


@pytest.mark.parametrize(("field", "value"), [("fc", 3.5), ("fc", "3.5"), ("delta_f", 30.0)])
def test_a_configuration_in_gigahertz_is_refused(tmp_path: Path, field: str, value: object):
    write_config(tmp_path / "D99", TINY, **{field: value})
    savemat(tmp_path / "D99" / "train_data.mat", {"H_train": CHANNEL})
    with pytest.raises(UserError, match=rf"config\.mat: {field} {float(str(value)):g} is no frequency in Hz; write"):
        survey(tmp_path / "D99", ImportOptions())


def surveyed(source: Path, options: ImportOptions) -> Survey:
    """As ``wavetrain channels import`` looks at a source."""
    found = survey(source, options)
    refuse_unused(options, found)
    return found


@pytest.mark.parametrize("option", ["antennas", "subcarriers", "spacing_khz", "slots"])
def test_an_option_that_nothing_here_uses_is_refused(tmp_path: Path, option: str):
    np.save(tmp_path / "a.npy", CHANNEL)
    with pytest.raises(UserError, match=f"--{option.replace('_', '-')}: it is for deepmimo.* found is only arrays"):
        surveyed(tmp_path, ImportOptions(**{option: 4}))


def test_axes_are_not_for_what_has_its_own(tmp_path: Path):
    np.savez(tmp_path / "DATA_Htrainin.npz", HT=np.random.default_rng(0).uniform(0, 1, (3, 2048)))
    with pytest.raises(UserError, match="--axes: it is for hetercsi, wifo, arrays, and found is only cost2100"):
        surveyed(tmp_path, ImportOptions(axes=Axes.parse("n,k")))
    np.save(tmp_path / "a.npy", CHANNEL)
    assert len(surveyed(tmp_path, ImportOptions(axes=Axes.parse("n,t,k,a"))).sets) == 2


@pytest.mark.parametrize("names", [("Hre", "Him"), ("hr", "hi"), ("I", "Q")])
def test_parts_of_unknown_names_are_said_how_to_name(tmp_path: Path, names: tuple[str, str]):
    parts = dict(zip(names, (CHANNEL.real[..., :1], CHANNEL.imag[..., :1]), strict=True))
    np.savez(tmp_path / "a.npz", **parts)
    with pytest.raises(UserError, match=r"rename them H_real and H_imag$"):
        survey(tmp_path / "a.npz", ImportOptions())
    for name, part in parts.items():
        np.save(tmp_path / f"{name}.npy", part)
    np.save(tmp_path / "good.npy", CHANNEL[:5])
    left = {left.what: left.why for left in survey(tmp_path, ImportOptions()).left_out}
    assert all(left[f"{name}.npy"].endswith("rename them H_real and H_imag") for name in names)


def test_a_published_name_is_kept_for_its_set(tmp_path: Path):
    np.save(tmp_path / "a.npy", CHANNEL)
    found = survey(tmp_path, ImportOptions())
    with pytest.raises(UserError, match=r"--name: P01 is the name of a published set, which a\.npy is not"):
        named_for(found, tmp_path / "store", ImportOptions(name="P01"))


@pytest.mark.parametrize(
    ("shape", "what"), [((0, 4, 8, 2), "a holds no sample"), ((1, 1, 2**15, 2**11), "a sample is larger than")]
)
def test_arrays_without_samples_or_with_huge_ones_say_how_to_mend(tmp_path: Path, shape: tuple[int, ...], what: str):
    np.save(tmp_path / "a.npy", np.zeros((0, 4, 8, 2), np.complex64))
    if shape[0]:
        # Of the length that it claims, but a hole in the disk.
        np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.complex64, shape)
    with pytest.raises(UserError, match=f"{what}.*--axes"):
        survey(tmp_path / "a.npy", ImportOptions())


def test_looking_warns_of_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder):
    torch = pytest.importorskip("torch")
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    torch.save({"H": torch.from_numpy(CHANNEL), "quantized": quantized}, tmp_path / "a.pt")
    recwarn.clear()
    assert [left.what for left in survey(tmp_path / "a.pt", ImportOptions()).left_out] == ["a.pt: quantized"]
    assert speeds_of({"rx_vel": np.full((2, 3), np.inf)})["speed_kmh"][1] == np.inf
    assert not recwarn.list
