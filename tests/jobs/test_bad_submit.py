"""Bad input of launching: one line, exit code 2, nothing queued and nothing written."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.cli.main import main
from tests.jobs_for_tests import small_job

SLURM: dict[str, Any] = {
    "launcher": "slurm", "network": {"interface": "eth0"}, "slurm": {"partition": "gpu", "nodes": 2, "gpus_per_node": 0}
}  # fmt: skip
RAY: dict[str, Any] = {"launcher": "ray", "ray_address": "127.0.0.1:9", "ray_dashboard": "http://127.0.0.1:9"}


def merged(profile: dict[str, Any], **sections: Any) -> dict[str, Any]:
    return {**profile, **{name: {**profile.get(name, {}), **fields} for name, fields in sections.items()}}


@pytest.fixture
def refusal(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Runs the command line with a profile on a machine without Slurm; the one line of an exit with code 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")

    def run(profile: dict[str, Any], *options: str, command: str = "submit") -> str:
        (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": {"here": profile}}))
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(small_job(small_store).model_dump(mode="json")))
        monkeypatch.setattr(sys, "argv", ["wavetrain", command, "job.yaml", *options])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2 and error.count("\n") == 1 and error.startswith("wavetrain: "), error
        return error

    yield run
    assert not (tmp_path / "runs" / "small").exists()


@pytest.mark.parametrize(
    ("profile", "options", "says"),
    [
        ({"launcher": "local"}, (), ["--cluster", "launcher is local", "wavetrain train"]),
        (SLURM, ("--cluster", "h900"), ["no profile 'h900'", "known: here"]),
        (SLURM, (), ["scontrol is not installed here", "login node"]),
        (SLURM, ("--set", "scale.workers=1"), ["scale.workers", "1 workers do not spread evenly over 2 nodes"]),
        (merged(SLURM, network={"interface": None}), (), ["network.interface"]),
        (merged(SLURM, slurm={"time": "24h"}), (), ["slurm.time", "'24h'", "hours:minutes:seconds"]),
        (merged(SLURM, slurm={"gpus": 8}), (), ["unknown key 'profiles.here.slurm.gpus'"]),
        (merged(SLURM, slurm={"nodes": 0}), (), ["slurm.nodes"]),
        (merged(SLURM, storage={"runs": "job.yaml/runs"}), (), ["job.yaml is a file", "storage.runs"]),
        (SLURM, ("--watch", "--sweep", "seed=1,2"), ["--watch follows one run"]),
        (SLURM, ("--sweep", "seed=1,2"), ["scontrol is not installed here"]),
        (SLURM, ("--sweep", "train.rate=1,2"), ["unknown key 'train.rate'"]),
        (SLURM, ("--after", "first"), ["no run 'first'"]),
        (RAY, ("--after", "first"), ["--after", "knows no dependencies"]),
        (RAY, (), ["http://127.0.0.1:9", "refuses", "RAY_AUTH_TOKEN_PATH"]),
        (RAY, ("--sweep", "seed=1,2"), ["http://127.0.0.1:9", "refuses"]),
        ({**RAY, "ray_dashboard": None}, (), ["ray_dashboard", "no address of a job server"]),
        ({**RAY, "ray_address": None}, (), ["launcher ray needs ray_address"]),
    ],
)
def test_submit(refusal: Any, profile: dict[str, Any], options: tuple[str, ...], says: list[str]) -> None:
    line = refusal(profile, *options)
    for part in says:
        assert part in line, line


def test_a_slurm_profile_does_not_train_here(refusal: Any) -> None:
    assert "wavetrain submit SPEC" in refusal(SLURM, command="train")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere", "nowhere.invalid:6379"])
def test_a_ray_that_does_not_answer(refusal: Any, address: str) -> None:
    line = refusal({**RAY, "ray_address": address}, command="train")
    assert f"Ray at {address} does not answer" in line and "ray_address" in line


@pytest.mark.parametrize("sweep", [(), ("--sweep", "seed=1,2")])
def test_a_dry_run_prints_the_script_and_touches_nothing(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    sweep: tuple[str, ...],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/nowhere")
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": {"here": SLURM}}))
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(small_job(small_store).model_dump(mode="json")))
    monkeypatch.setattr(sys, "argv", ["wavetrain", "submit", "job.yaml", "--dry-run", *sweep])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert not ended.value.code, said.err
    assert "#SBATCH --signal=USR1@120" in said.out and "ray start --head" in said.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster.yaml", "job.yaml"]


def test_a_store_is_compared_once_for_all_children(
    tmp_path: Path, small_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.cli.submit import _prepare_all
    from orchestrator.control import preflight
    from orchestrator.spec.cluster import Profile

    compared: list[str] = []
    find_fault = preflight.find_fault

    def counted(store: Path, shard: Any, *, checksum: bool) -> Any:
        compared.append(shard.file)
        return find_fault(store, shard, checksum=checksum)

    monkeypatch.setattr(preflight, "find_fault", counted)
    children = [small_job(small_store, f"child-{seed}", seed=seed) for seed in range(3)]
    _prepare_all(children, Profile.model_validate({"storage": {"runs": str(tmp_path / "runs")}}))
    assert len(compared) == len(set(compared)) > 0
