"""Studies over real runs: gradients in one process, and a child that is trained, nested and not made again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from channels.catalogue import Counts
from channels.make import as_made, generator_origin
from channels.shards import Samples
from channels.writer import open_writer
from jobs.launch.sweep import open_parent
from jobs.studies.children import run_child, waiting_children
from jobs.studies.run import runs_table, sweep_folder
from jobs.studies.spec import Study, StudyName, known_scales, make_study
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import TrackingSection
from tests.e2e.runs import Place
from tests.stores import plane_waves

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def a_study(kind: StudyName, folder: Path) -> Study:
    """The small study, its channels plane waves, which take no time to make."""
    scale = known_scales()["small"].model_copy(update={"table3_sets": (8,), "epochs": 1})
    study = make_study(kind, f"{kind}-small", scale, folder / "data", seed=42)
    study.store.parent.mkdir(exist_ok=True)
    random = np.random.default_rng(5)

    # The origin of made channels, so that the study takes these for what it would make.
    origin, counts = generator_origin(42), Counts(scale.samples, 0, scale.zeroshot_samples)
    with open_writer(study.store) as writer:
        for row in (*study.preset.pretrain, *study.preset.zeroshot):
            role = "pretrain" if row in study.preset.pretrain else "zeroshot"
            wanted = counts.of(role)
            waves = {split: [Samples(plane_waves(row.shape, count, random), {})] for split, count in wanted.items()}
            writer.add_set(as_made(row), role, wanted, waves, origin)
    return study


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_child_is_nested_and_not_made_again(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.folder)
    study = a_study("table3", folder.folder)
    profile = Profile.model_validate({})
    runs = profile.storage.runs
    child = study.children[0]
    parent = open_parent(study.name, TrackingSection(), profile)
    assert waiting_children([child], runs) == [child]
    run_child(child, runs, sweep_folder(study, runs), parent.run_id, [])
    assert not waiting_children([child], runs)
    name = child.job.name
    assert folder.tracked(name).data.tags["mlflow.parentRunId"] == parent.run_id
    table = runs_table(replace(study, children=(child,)), runs)
    relative = dict(zip(table.column("sets"), table.column("run: relative time"), strict=True))
    assert relative[8] == 1.0 and relative[40] is None
    assert table.column("run: padding %")[0] == 0.0


def test_gradients_are_compared_by_one_command(folder: Place) -> None:
    a_study("fig1c", folder.folder)
    done = folder.run("study", "fig1c", "--epochs", "1")
    assert done.returncode == 0, done.stderr
    written = folder.folder / "runs" / "fig1c-small.sweep"
    assert {path.suffix for path in written.glob("fig1c.*")} == {".csv", ".md", ".html", ".png"}
    lines = (written / "fig1c.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines[1:]] == ["different scale", "similar scale", "same scale"]
    assert all(0 <= float(line.split(",")[1]) <= 100 for line in lines[1:])
    client = MlflowClient(tracking_uri=f"sqlite:///{folder.folder / 'runs' / 'mlflow.db'}")
    run_id = folder.state("fig1c-small.sweep")["mlflow_run_id"]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert {entry.path for entry in client.list_artifacts(run_id)} >= {"fig1c.csv", "fig1c.html"}
