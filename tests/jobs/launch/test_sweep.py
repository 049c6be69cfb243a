"""Sweeps: which children there are, what they are called, and their parent in MLflow."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.errors import UserError
from channels.yaml_files import read_mapping
from jobs.cli import submit as submit_command
from jobs.launch.sweep import make_parent, mark_child, read_sweep
from jobs.slurm.executor import submit_array
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from tests.jobs.launches import job_of, submission_in


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job_of(8).model_dump(mode="json")))
    return path


def test_every_combination_once(spec: Path) -> None:
    sweep = read_sweep(spec, ["seed=5"], ["batching.buckets=1,2", "train.lr=4e-4,8e-4", "data.sets=[R1,R2],2"])
    found = [(child.batching.buckets, child.train.lr, child.data.sets) for child in sweep.children]
    assert len(found) == len(set(found)) == 8
    assert (1, 4e-4, ("R1", "R2")) in found and (2, 8e-4, 2) in found
    assert {child.seed for child in sweep.children} == {5}
    assert sweep.children[0].name == "golden.buckets-1.lr-4e-4.sets-_R1_R2_"


@pytest.mark.parametrize(
    ("sweeps", "says"),
    [
        (["train.lr"], "not of the form"),
        (["train.lr="], "not of the form"),
        (["train.lr=1e-4,1e-4"], "one name"),
        (["train.lr=1e-4", "train.lr=2e-4"], "cannot be swept"),
        (["name=a,b"], "cannot be swept"),
        (["train.lr=1e-4,fast"], "train.lr"),
        (["train.rate=1,2"], "unknown key"),
        (["seed=" + ",".join(map(str, range(1001)))], "1001 combinations"),
    ],
)
def test_bad_sweeps_are_told_before_anything_is_submitted(spec: Path, sweeps: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_sweep(spec, [], sweeps)


@pytest.mark.timeout(20)
def test_too_many_combinations_are_refused_before_any_is_made(spec: Path) -> None:
    thousand = ",".join(map(str, range(1, 1001)))
    with pytest.raises(UserError, match="1000000000 combinations"):
        read_sweep(spec, [], [f"seed={thousand}", f"train.epochs={thousand}", f"batching.buckets={thousand}"])


def test_the_file_is_read_once(spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path)
        return read_mapping(path)

    monkeypatch.setattr("jobs.launch.sweep.read_mapping", counted)
    assert len(read_sweep(spec, [], ["train.lr=1e-4,2e-4", "seed=1,2"]).children) == 4 and read == [spec]


def test_children_of_other_sizes_do_not_fit_one_array(tmp_path: Path) -> None:
    small, large = submission_in(tmp_path, nodes=2), submission_in(tmp_path, nodes=4)
    with pytest.raises(UserError, match="different allocations"):
        submit_array([small, large], small.launch, parallel=2)
    assert not small.launch.path.exists()


def test_the_parent_is_made_once(spec: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    sweep = read_sweep(spec, [], ["train.lr=4e-4,8e-4"])
    profile = Profile.model_validate({"storage": {"runs": str(tmp_path / "runs")}})
    parent = make_parent(sweep, profile)
    assert make_parent(sweep, profile) == parent
    run = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}").get_run(parent)
    assert run.data.tags["wavetrain.sweep"] == "train.lr"
    child = RunDirectory(tmp_path / "runs" / sweep.children[0].name)
    mark_child(child, parent)
    assert parent in child.launch_tags.read_text()


def test_an_offline_sweep_is_submitted_without_mlflow(
    spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[Any] = []
    monkeypatch.setattr(submit_command, "_prepare_all", lambda *arguments: None)
    monkeypatch.setattr(submit_command, "_check_ray", lambda profile: None)
    monkeypatch.setattr(submit_command, "make_parent", lambda *arguments: pytest.fail("MLflow is asked"))
    monkeypatch.setattr(submit_command.ray_sweep, "submit", lambda children, *more: given.extend(children) or "ray-1")
    sweep = read_sweep(spec, ["tracking.offline=true"], ["seed=1,2"])
    profile = Profile.model_validate({"launcher": "ray", "ray_address": "a:1", "storage": {"runs": tmp_path / "runs"}})
    submit_command.submit_sweep(sweep, profile, 2, awaited=None, dry_run=False)
    assert given == list(sweep.children) and "no common parent" in capsys.readouterr().err
