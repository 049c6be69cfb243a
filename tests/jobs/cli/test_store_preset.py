"""A job that names its store's preset: planned before the store is there, and the command that makes it is named."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.catalogue import Counts, make_store, select_sets
from channels.presets import load_preset
from jobs.cli import channels as channel_commands
from orchestrator.run.folder import RunDirectory, check_resumable
from orchestrator.spec.job import JobSpec, load_job
from orchestrator.spec.store_preset import StorePreset
from tests.docs.pages import commands
from tests.jobs.cli.conftest import Command

ROOT = Path(__file__).parents[3]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
PRESET = {"name": "demo", "sets": ["E1", "E2", "Z1"], "train": 20, "val": 4, "test": 5}
JOB = {
    "name": "new",
    "data": {"store": "data/new", "preset": PRESET},
    "model": {"name": "hetercsi", "size": "tiny", "position": "grid"},
    "batching": {"buckets": 2, "global_batch": 8, "partitions": 4},
    "scale": {"workers": 2},
}
SLURM: dict[str, Any] = {
    "launcher": "slurm", "network": {"interface": "eth0"}, "slurm": {"partition": "gpu", "nodes": 2, "gpus_per_node": 0}
}  # fmt: skip


@pytest.fixture
def wavetrain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wavetrain: Command) -> Command:
    """Runs the command line in a folder with a job and a Slurm profile, without Slurm; exit code, output, error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    profiles = {"here": SLURM, "laptop": {"launcher": "local"}}
    Path("cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": profiles}))
    Path("job.yaml").write_text(yaml.safe_dump(JOB))

    return wavetrain


def test_the_plan_before_and_after_the_store_is_made_is_the_same(wavetrain: Any) -> None:
    code, before, said = wavetrain("plan", "job.yaml", "--json")
    command = "wavetrain channels make --preset demo --store data/new --sets E1,E2,Z1 --train 20 --val 4 --test 5"
    assert code == 0 and said.count("\n") == 1 and said.rstrip().endswith(f"Make it: {command}")
    assert not Path("data").exists()
    assert wavetrain(*shlex.split(command)[1:])[0] == 0
    code, after, said = wavetrain("plan", "job.yaml", "--json")
    assert (code, said) == (0, "") and json.loads(after) == json.loads(before)


@pytest.mark.parametrize("name", ["zz", "E1"])
def test_a_plan_checks_the_sets_that_are_scored(wavetrain: Any, name: str) -> None:
    code, _, said = wavetrain("plan", "job.yaml", "--set", f"data.zeroshot_sets=[{name}]")
    assert code == 2 and f"data.zeroshot_sets: no set {name!r}; known: Z1" in said


@pytest.mark.parametrize("sweep", [(), ("--sweep", "seed=1,2")])
def test_a_dry_run_works_without_the_store_and_a_submission_does_not(wavetrain: Any, sweep: tuple[str, ...]) -> None:
    code, out, said = wavetrain("submit", "job.yaml", "--dry-run", *sweep)
    assert code == 0 and "#SBATCH" in out and said.count("wavetrain channels make --preset demo --store data/new") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["cluster.yaml", "job.yaml"]
    code, _, said = wavetrain("submit", "job.yaml", *sweep)
    assert code == 2 and ("no such store; make it: wavetrain channels make" in said or "scontrol" in said)


def test_a_dry_run_where_slurm_is_installed_and_does_not_answer(wavetrain: Any, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin" / "scontrol").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{tmp_path / 'bin'}:/bin")
        code, out, said = wavetrain("submit", "job.yaml", "--dry-run")
    assert code == 0 and "#SBATCH" in out and "no Slurm answers here" in said


def of_readme(*words: str) -> list[str]:
    """Commands of the README with all these words."""
    return [text for text in commands(ROOT / "README.md") if all(word in text.split() for word in words)]


def test_the_dry_runs_of_the_readme_are_true_on_a_fresh_clone(wavetrain: Any) -> None:
    Path("jobs").symlink_to(ROOT / "jobs")
    Path("cluster.yaml").unlink()
    Path("cluster.yaml").symlink_to(ROOT / "cluster.yaml")
    lines = of_readme("submit", "--dry-run") + of_readme("plan", "--preset")
    assert len(lines) == 2
    for line in lines:
        code, out, said = wavetrain(*shlex.split(line)[1:])
        assert code == 0 and ("#SBATCH --nodes=8" in out or '"padding": 0.0738' in out), said
    assert sorted(path.name for path in Path().iterdir()) == ["cluster.yaml", "job.yaml", "jobs"]


def test_training_names_the_command_that_makes_the_store(wavetrain: Any) -> None:
    code, _, said = wavetrain("train", "job.yaml", "--cluster", "laptop")
    assert code == 2 and "data/new: no such store; make it: wavetrain channels make --preset demo" in said
    assert said.count("\n") == 1 and "--make-data" in said and not Path("runs").exists()


def test_make_data_makes_what_lacks_and_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = JobSpec.model_validate(JOB)
    make_store(job.data.store, select_sets(load_preset("demo"), "E1"), Counts(20, 4, 5), 0, lambda *report: None)
    first = (job.data.store / "manifest.json").read_bytes()
    channel_commands.make_missing(job.data)
    assert (job.data.store / "manifest.json").read_bytes() != first
    monkeypatch.setattr(channel_commands, "make_store", lambda *arguments: pytest.fail("nothing lacks"))
    channel_commands.make_missing(job.data)


def test_make_data_needs_a_preset_that_is_known(wavetrain: Any) -> None:
    line = ("train", "job.yaml", "--cluster", "laptop", "--make-data", "--set")
    code, _, said = wavetrain(*line, "data.preset=null")
    assert code == 2 and "data.preset: the job names no preset" in said
    code, _, said = wavetrain(*line, "data.preset.name=dmeo")
    assert code == 2 and "unknown preset 'dmeo'; did you mean 'demo'?" in said


def test_a_run_does_not_depend_on_how_its_store_would_be_made(tmp_path: Path) -> None:
    named, other = JobSpec.model_validate(JOB), JobSpec.model_validate({**JOB, "data": {"store": "data/new"}})
    assert named.fingerprint == other.fingerprint
    directory = RunDirectory(tmp_path / "new")
    directory.path.mkdir()
    directory.spec.write_text(other.model_dump_json(exclude={"data": {"preset"}}))
    assert check_resumable(directory, named, "content")


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_shipped_jobs_name_a_preset_that_can_be_planned(path: Path) -> None:
    preset = load_job(path).data.preset
    assert (preset is None) == (path.stem == "quadriga"), "imported channels have no preset"
    if preset is not None:
        select_sets(load_preset(preset.name), preset.chosen)


def test_the_command_has_what_the_preset_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    preset = StorePreset(name="hetercsi", sets=8, train=9, val=1, test=2, seed=3)
    assert preset.command(tmp_path / "my data") == (
        "wavetrain channels make --preset hetercsi --store 'my data' --sets 8 --train 9 --val 1 --test 2 --seed 3"
    )
    assert "--store /elsewhere/x --train 1000" in StorePreset(name="demo").command(Path("/elsewhere/x"))


def test_training_samples_of_held_out_sets_are_part_of_the_command() -> None:
    preset = StorePreset(name="demo", sets=("Z1",), train=0, val=0, test=5, zeroshot_train=7, zeroshot_val=2)
    command = preset.command(Path("data/target"))
    assert command.endswith("--train 0 --val 0 --test 5 --zeroshot-train 7 --zeroshot-val 2")
    assert preset.counts.of("zeroshot") == {"train": 7, "val": 2, "test": 5}
    assert StorePreset(name="demo").counts.of("zeroshot") == {"train": 0, "val": 0, "test": 128}
