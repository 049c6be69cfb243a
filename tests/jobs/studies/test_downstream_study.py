"""The study of Fig. 3: its jobs, its sources, and that an interrupted one goes on with what is not finished."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.errors import UserError
from channels.store import ChannelStore
from jobs.cli.main import main
from jobs.studies.children import ChildFailedError, waiting_children
from jobs.studies.downstream import run as study_run
from jobs.studies.downstream.spec import MODELS, DownstreamStudy, downstream_scales, make_downstream_study
from models.registry import make_spec
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile, StorageSection


def users(folder: Path) -> Path:
    """A file of ray-traced users."""
    random = np.random.default_rng(0)
    channel = (random.normal(size=(30, 8, 8, 2)) @ [1, 1j]).astype(np.complex64)
    file = folder / "yard.npz"
    np.savez(file, H=channel, pos=random.uniform(-9, 9, (30, 3)).astype(np.float32), los=np.arange(30) % 2)
    return file


def a_study(folder: Path, scale: str = "small") -> DownstreamStudy:
    return make_downstream_study("fig", downstream_scales()[scale], [users(folder)], folder / "data", seed=1)


@pytest.mark.parametrize("scale", list(downstream_scales()))
def test_every_encoder_is_pretrained_on_the_same_channels_and_knows_all_patch_sides(scale: str, tmp_path: Path) -> None:
    study = a_study(tmp_path, scale)
    assert [child.method for child in study.children] == list(MODELS)
    assert [row.name for row in study.preset.pretrain] == list(study.scale.sets)
    for child in study.children:
        model = make_spec(child.job.model.name, child.job.model.options)
        for row in study.preset.pretrain:
            for side in study.scale.patches if child.method != "hetercsi" else (4,):
                # LWM has no positions for more.
                assert model.length(row.shape, side) <= 513
        assert child.job.data.store == study.store
    spec, exports = study.comparison("yard", ["yard"], tmp_path / "runs")
    assert list(exports) == [*MODELS, "raw"] and exports["raw"] is None
    assert spec.sets == ("yard",)
    assert spec.patches == study.scale.patches and spec.store == study.labelled_store("yard")


def test_a_comparison_takes_what_its_source_holds_and_no_more(tmp_path: Path) -> None:
    found = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        study = a_study(tmp_path / place)
        study = replace(study, stores=tmp_path / "data")
        sets = study_run.import_labelled(study, "yard", lambda line: None)
        spec, _ = study.comparison("yard", sets, tmp_path / "runs")
        assert spec.sets == tuple(ChannelStore.open(spec.store).sets)
        found.append(spec)
    assert found[0].store != found[1].store
    study.sources["yard"].rename(tmp_path / "b" / "lawn.npz")
    folder = replace(study, sources={"b": tmp_path / "b"})
    assert study_run.import_labelled(folder, "b", lambda line: None) == ["lawn"]
    (tmp_path / "b" / "lawn.npz").rename(tmp_path / "b" / "field.npz")
    assert study_run.import_labelled(folder, "b", lambda line: None) == ["field"]


def test_sources_that_are_none_are_one_line(tmp_path: Path) -> None:
    scale = downstream_scales()["small"]
    for sources, said in (
        ([], "no labelled channels to compare on"),
        ([tmp_path / "none"], "no such file or folder"),
        ([users(tmp_path), tmp_path / "yard.npz"], "two sources are called 'yard'"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            make_downstream_study("fig", scale, sources, tmp_path, seed=1)
        assert "\n" not in str(caught.value)


def test_the_command_says_what_there_is_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, code in ((["--source", str(users(tmp_path)), "--dry-run"], 0), ([], 2), (["--scale", "vast"], 2)):
        monkeypatch.setattr(sys, "argv", ["wavetrain", "study", "fig3-wimamba", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        assert (int(ended.value.code or 0), said.err.count("\n")) == (code, 1 if code else 0)
        assert ("3 pre-trainings, 3 of them to be made" in said.out) == (code == 0)
    assert not (tmp_path / "runs").exists() and not (tmp_path / "data").exists()


def test_an_interrupted_study_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-trainings, making channels and comparisons are stood in for."""
    study, profile = a_study(tmp_path), Profile(storage=StorageSection(runs=tmp_path / "runs"))
    trained: list[str] = []
    compared: list[Any] = []

    def train(child: Any, runs: Path, specs: Path, parent: str, options: Any) -> None:
        if child.method == "lwm" and trained == ["wimamba"]:
            trained.append("interrupted")
            raise ChildFailedError(child.job.name, 143)
        trained.append(child.method)
        directory = RunDirectory(runs / child.job.name)
        directory.path.mkdir(parents=True)
        directory.spec.write_text(child.job.model_dump_json())
        directory.update_state(status="FINISHED")

    def compare(spec: Any, exports: Any, profile: Profile, say: Any, above: str) -> list[Path]:
        compared.append((spec.name, dict(exports), above))
        return [tmp_path / "runs" / "downstream.md"]

    monkeypatch.setattr(study_run, "run_child", train)
    monkeypatch.setattr(study_run, "run_comparison", compare)
    monkeypatch.setattr(study_run, "make_store", lambda *arguments: None)

    def go() -> list[Path]:
        waiting = waiting_children(study.children, profile.storage.runs)
        return study_run.run_downstream_study(study, waiting, profile, [], lambda line: None)

    with pytest.raises(ChildFailedError):
        go()
    assert not compared
    assert go() == [tmp_path / "runs" / "downstream.md"]
    assert trained == ["wimamba", "interrupted", "lwm", "hetercsi"]
    [(name, exports, parent)] = compared
    assert name == "fig.yard" and parent and exports["lwm"] == (tmp_path / "runs" / "fig.lwm" / "model").absolute()
    assert (study.labelled_store("yard") / "manifest.json").exists()
    assert len(go()) == 1 and len(trained) == 4
