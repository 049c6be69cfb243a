"""Slurm without Slurm: the rendered script, every job state, the shape of an allocation."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from channels.errors import UserError
from jobs.launch.job_state import JobState
from jobs.launch.snapshot import code_files, code_folder, take_snapshot
from jobs.slurm import state as slurm_state
from jobs.slurm.description import describe_bring_up
from jobs.slurm.executor import refused, render
from jobs.slurm.state import STATES, job_state
from jobs.slurm.submission import Submission, minutes, prepare_submission
from tests.jobs.launches import job_of, slurm_profile, submission_in

GOLDEN = Path(__file__).parent / "golden"


def two_gpu_nodes(runs: Path) -> Submission:
    return submission_in(runs, account="radio", qos="long", exclude=["n7", "n9"], memory_gb=900,
                         setup=["module load cuda/12.8"], signal_lead_s=300)  # fmt: skip


def one_cpu_node(runs: Path) -> Submission:
    profile = slurm_profile(runs, nodes=1, gpus_per_node=0, constraint="icelake", time="90:00")
    return prepare_submission(job_of(4), profile.model_copy(update={"device": "cpu"}))


@pytest.mark.parametrize(("name", "made"), [("two_nodes.sbatch", two_gpu_nodes), ("one_cpu_node.sbatch", one_cpu_node)])
def test_the_script_is_the_golden_one(tmp_path: Path, name: str, made: Callable[[Path], Submission]) -> None:
    submission = made(tmp_path / "runs")
    assert neutral(render(submission), submission, tmp_path) == (GOLDEN / name).read_text()
    assert not (tmp_path / "runs").exists(), "rendering writes nothing"


def test_further_options_of_sbatch_replace_ours(tmp_path: Path) -> None:
    sbatch = ["--gres=gpu:h800:8", "--reservation=radio", "--exclusive", "--mem=0", "--cpus-per-task=100"]
    script = render(submission_in(tmp_path / "runs", sbatch=sbatch, memory_gb=900))
    lines = [line for line in script.splitlines() if line.startswith("#SBATCH ")]
    for option in sbatch:
        assert f"#SBATCH {option}" in lines
    assert not [line for line in lines if "gpus-per-node" in line or "900GB" in line or "cpus-per-task=96" in line]
    assert "--cpus-per-task=100" in next(line for line in script.splitlines() if line.startswith("srun "))
    assert "#SBATCH --signal=USR1@120" in lines and "#SBATCH --requeue" in lines


@pytest.mark.parametrize(
    ("option", "says"),
    [("--signal=TERM", "--signal is set by Wavetrain"), ("exclusive", "not of the form"), ("--mem=", "not of the form"),
     ("--time=1", "--time is set by Wavetrain"), ("-N 4", "not of the form"),
     # The next attempt excludes more nodes, and a reply of another form holds no number of the job.
     ("--exclude=n7", "--exclude is set by Wavetrain"), ("--parsable", "--parsable is set by Wavetrain")],
)  # fmt: skip
def test_options_that_the_launch_rests_on_are_refused(tmp_path: Path, option: str, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        slurm_profile(tmp_path, sbatch=[option])


def test_the_environment_of_the_ranks_is_shown_before_anything_is_submitted(tmp_path: Path) -> None:
    submission = two_gpu_nodes(tmp_path / "runs")
    network = submission.profile.network.model_copy(update={"env": {"NCCL_IB_HCA": "mlx5", "NCCL_DEBUG": "INFO"}})
    shown = replace(submission, profile=submission.profile.model_copy(update={"network": network}))
    assert "ranks: NCCL_DEBUG=INFO NCCL_IB_HCA=mlx5" in describe_bring_up(shown)


def test_the_snapshot_runs_whatever_lies_in_the_folder_of_submission(tmp_path: Path) -> None:
    here = tmp_path / "here"
    (here / "jobs").mkdir(parents=True)
    (here / "jobs" / "__init__.py").write_text("raise SystemExit('the wrong code runs')")
    (here / "activate").write_text("export ACTIVATED=1\n")
    submission = submission_in(tmp_path / "runs", setup=[". ./activate", "export PYTHONPATH="])
    code = take_snapshot(submission.launch.path)
    lines = render(submission).partition("# setup\n")[2].partition("# command")[0]
    shown = f"{lines}\n{sys.executable} -m jobs.run --help >/dev/null && echo $ACTIVATED $PWD"
    done = subprocess.run(["bash", "-c", shown], cwd=here, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.returncode) == (f"1 {code}", 0), done.stderr


def test_the_bring_up_is_the_golden_one(tmp_path: Path) -> None:
    submission = two_gpu_nodes(tmp_path / "runs")
    assert neutral(describe_bring_up(submission), submission, tmp_path) + "\n" == (GOLDEN / "bring_up.txt").read_text()


def neutral(text: str, submission: Submission, folder: Path) -> str:
    """Without what differs from machine to machine."""
    places = {str(folder): "FOLDER", code_folder(submission.launch.path).name: "CODE", sys.executable: "PYTHON"}
    for place, name in places.items():
        text = text.replace(place, name)
    return text


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0:30:00", 30), ("24:00:00", 1440), ("1-00:00:00", 1440), ("2-03:30", 3090), ("90:30", 91), ("0:00:01", 1)],
)
def test_times_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert minutes(text) == expected


def test_workers_must_spread_over_the_nodes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="15 workers do not spread evenly over 2 nodes"):
        prepare_submission(job_of().model_copy(update={"scale": job_of(8).scale.model_copy(update={"workers": 15})}),
                           slurm_profile(tmp_path))  # fmt: skip


def test_more_ranks_than_gpus(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 workers need a GPU each, 2 nodes x 4"):
        submission_in(tmp_path, gpus_per_node=4)


def test_an_interface_must_be_named(tmp_path: Path) -> None:
    profile = slurm_profile(tmp_path)
    unnamed = profile.model_copy(update={"network": profile.network.model_copy(update={"interface": None})})
    with pytest.raises(UserError, match=r"network\.interface"):
        prepare_submission(job_of(), unnamed)


def test_what_sbatch_refuses_is_one_line() -> None:
    said = "sbatch: error: invalid partition specified: gpuu\nsbatch: error: Batch job submission failed: Invalid name"
    line = str(refused(RuntimeError(said)))
    assert "invalid partition specified: gpuu" in line and "\n" not in line


class Programs:
    """squeue, sacct and scontrol that answer as told; None: the program fails."""

    def __init__(
        self, squeue: str | None = None, sacct: str | None = None, scontrol: str | None = None, error: str = ""
    ) -> None:
        self.answers = {"squeue": squeue, "sacct": sacct, "scontrol": scontrol}
        self.error = error
        self.asked: list[str] = []

    def __call__(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.asked.append(command[0])
        answer = self.answers[command[0]]
        return subprocess.CompletedProcess(command, int(answer is None), answer or "", self.error)


@pytest.mark.parametrize("name", sorted(STATES))
def test_every_state_of_squeue_and_sacct(name: str) -> None:
    queued = job_state("7", Programs(squeue=f"{name}|None|n[1-2]\n"))
    recorded = job_state("7", Programs(sacct=f"{name}|None|n[1-2]|0:0\n"))
    assert queued == recorded and queued.state == STATES[name] and queued.nodes == "n[1-2]"


def test_slurms_own_list_of_states_is_covered() -> None:
    documented = """BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED LAUNCH_FAILED NODE_FAIL
    OUT_OF_MEMORY PENDING PREEMPTED RECONFIG_FAIL RESIZING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD REVOKED
    RUNNING SIGNALING SPECIAL_EXIT STAGE_OUT STOPPED SUSPENDED TIMEOUT"""
    assert set(documented.split()) == set(STATES)


def test_a_pending_job_tells_why() -> None:
    assert job_state("7", Programs(squeue="PENDING|Resources|\n")) == JobState("PENDING", "Resources", None)


def test_a_preempted_job_that_waits_in_the_queue_is_not_over() -> None:
    programs = Programs(squeue="PENDING|BeginTime|\n", sacct="PREEMPTED|None|n1|0:0\n")
    assert job_state("7", programs).state == "PENDING"
    assert programs.asked == ["squeue"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("CANCELLED by 1000|None|n1|0:15", JobState("KILLED", "CANCELLED", "n1")),
        ("CANCELLED+|None|n1|0:15", JobState("KILLED", "CANCELLED", "n1")),
        ("TIMEOUT|None|n1|0:0", JobState("FAILED", "TIMEOUT", "n1")),
        ("FAILED|NonZeroExitCode|n1|1:0", JobState("FAILED", "NonZeroExitCode, exit 1:0", "n1")),
        ("NODE_FAIL|None|n1|1:0", JobState("FAILED", "NODE_FAIL, exit 1:0", "n1")),
        ("SOMETHING_NEW|None|n1|0:0", JobState("UNKNOWN", "SOMETHING_NEW", "n1")),
    ],
)
def test_lines_of_sacct(line: str, expected: JobState) -> None:
    assert job_state("7", Programs(sacct=line + "\n")) == expected


def test_without_accounting_scontrol_answers() -> None:
    record = "JobId=7 JobName=x UserId=a(1) JobState=FAILED Reason=NonZeroExitCode NodeList=n1 ExitCode=2:0"
    assert job_state("7", Programs(scontrol=record)) == JobState("FAILED", "NonZeroExitCode, exit 2:0", "n1")
    assert job_state("7", Programs(scontrol="")).state == "UNKNOWN"


def test_a_job_that_slurm_has_forgotten_is_over_and_a_silent_slurm_is_not_taken_for_that() -> None:
    forgotten = Programs(error="slurm_load_jobs error: Invalid job id specified")
    assert job_state("7", forgotten) == JobState("KILLED", "Slurm does not know the job any more")
    silent = Programs(error="slurm_load_jobs error: Unable to contact slurm controller (connect failure)")
    assert job_state("7", silent).state == "UNKNOWN"


def test_a_machine_without_slurm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="squeue is not installed here"):
        job_state("7", slurm_state.run_command)


def test_the_snapshot_holds_the_rooms_and_is_named_by_content(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name, content in {"jobs/a.py": "1", "channels/presets/p.yaml": "2", "jobs/__pycache__/a.pyc": "3"}.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(content)
    assert [str(path) for path in code_files(source)] == ["channels/presets/p.yaml", "jobs/a.py"]
    first = take_snapshot(tmp_path / "launch", source)
    assert take_snapshot(tmp_path / "launch", source) == first
    (source / "jobs" / "a.py").write_text("changed")
    second = take_snapshot(tmp_path / "launch", source)
    assert second != first and (first / "jobs" / "a.py").read_text() == "1"
    assert (second / "jobs" / "a.py").read_text() == "changed"
