"""What a run says of itself in MLflow: description and tags."""

import json
from pathlib import Path

from channels.files import write_json
from orchestrator.control.description import describe_result, describe_run
from orchestrator.control.prepare import prepare
from orchestrator.control.provenance import attempt_tags, launch_script, launch_tags, tags
from orchestrator.evaluation.score import Score
from orchestrator.run.folder import RunDirectory
from orchestrator.run.progress import RunProgress
from orchestrator.spec.cluster import Profile
from tests.jobs_for_tests import small_job
from tests.orchestrator.view.test_live import attempt_event, step_event


def test_a_run_is_described_by_what_data_plan_and_result(small_store: Path, tmp_path: Path) -> None:
    profile = Profile.model_validate({"storage": {"runs": tmp_path / "runs"}})
    job = small_job(small_store, description="A first line.")
    of = prepare(job, profile)
    text = describe_run(job, "cpu", of.store.path.name, of.catalogue, of.schedule, len(of.zeroshot), "running.")
    paragraphs = text.split("\n\n")
    assert paragraphs[0] == "**Result.** running." and paragraphs[-1] == "A first line."
    heads = [paragraph.split()[0] for paragraph in paragraphs[:-1]]
    assert heads == ["**Result.**", "**Plan.**", "**What.**"]
    for part in ("hetercsi (tiny), 2 epochs on 2 ranks (cpu, ZeRO 2, fp32), seed 3", "4 sets", "2 sets held out",
                 "bucket (optimal), 2 buckets", "steps of 16 samples", "20 dB"):  # fmt: skip
        assert part in text, text


def test_the_result_has_loss_padding_time_and_nmse() -> None:
    progress = RunProgress()
    progress.add(attempt_event())
    assert describe_result("KILLED", progress, [], "interrupted") == "KILLED (interrupted) after step 0."
    progress.add(step_event(4, **{"time/train_s": 75.0}))
    progress.add({"kind": "epoch", "step": 4, "time": 0.0, "metrics": {"data/epoch_padding_ratio": 0.031}})
    scores = [
        Score("time", name, predictor, target, nmse, 5)
        for name in ("Z1", "Z2")
        for predictor, target, nmse in (("model", "noisy", 0.1), ("model", "clean", 0.2), ("zero", "noisy", 1.0))
    ]
    wanted = (
        "FINISHED after step 4; loss 0.2500; training 1:15; padding 3.10 % of the last epoch; "
        "zero-shot NMSE: time -10.00 dB."
    )
    assert describe_result("FINISHED", progress, scores, None) == wanted


def test_tags_of_a_submitted_run(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert set(launch_tags(directory, "slurm")) == {"git.commit", "git.dirty"}
    directory.launch.mkdir()
    version = {"git.commit": "abc", "git.dirty": "false"}
    write_json(directory.launch_tags, {"mlflow.parentRunId": "p"})
    record = {"launcher": "ray", "job_id": "raysubmit_1", "code_version": version}
    write_json(directory.launch / "submission.json", record)
    assert launch_tags(directory, "ray") == {**version, "ray.submission_id": "raysubmit_1", "mlflow.parentRunId": "p"}
    assert launch_script(directory) is None
    logs = directory.launch / "slurm"
    record |= {"launcher": "slurm", "job_id": "7_2", "logs": str(logs)}
    write_json(directory.launch / "submission.json", record)
    assert launch_tags(directory, "slurm")["slurm.job_id"] == "7_2"
    by_hand = launch_tags(directory, "local")
    assert by_hand.keys() == {"git.commit", "git.dirty", "mlflow.parentRunId"} and by_hand["git.commit"] != "abc"
    assert launch_script(directory) is None
    logs.mkdir()
    (logs / "7_submission.sh").write_text("#SBATCH --nodes=2\n")
    script = launch_script(directory)
    assert script is not None and (script.name, script.read_text()) == ("sbatch.sh", "#SBATCH --nodes=2\n")
    assert json.loads((directory.launch / "submission.json").read_text())["job_id"] == "7_2"


def test_the_environment_of_the_ranks_is_a_tag() -> None:
    job = small_job(Path("/data/store"), "a")
    assert "network.env" not in tags(job, Profile(), "hash")
    profile = Profile.model_validate({"network": {"env": {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "WARN"}}})
    assert tags(job, profile, "hash")["network.env"] == "NCCL_DEBUG=WARN NCCL_IB_HCA=mlx5"


def test_tags_of_an_attempt_name_its_machines() -> None:
    event = {**attempt_event(), "machines": ["n2", "n1"]}
    assert attempt_tags(event, 3) == {"attempt": "3", "world_size": "2", "nodes": "n1,n2"}
