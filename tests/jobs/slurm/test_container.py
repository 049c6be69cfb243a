"""Slurm jobs in containers: the script, a stand-in for the plugin, and what a container may lack."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from channels.errors import UserError
from jobs.launch.folder import LaunchFolder
from jobs.launch.snapshot import take_snapshot
from jobs.node.rendezvous import JobNode
from jobs.slurm.description import describe_bring_up
from jobs.slurm.executor import make_executor, render
from jobs.slurm.node import run_node
from jobs.slurm.requeue import check_scontrol
from jobs.slurm.submission import Submission
from orchestrator.run.folder import RunDirectory
from tests.jobs.launches import job_of, slurm_profile, submission_in

PLUGIN = """#!/bin/bash
# As pyxis: every mount must exist, the working directory must be mounted, and the command sees the container alone.
while [ $# -gt 0 ]; do case $1 in
  --container-image=*) image=${1#*=};;
  --container-mounts=*) mounts=${1#*=};;
  --container-workdir=*) cd "${1#*=}" || exit 3; echo "workdir $PWD";;
  --container-*|--no-container-*) echo "plugin $1";;
  --output|--error) shift;;
  --*) echo "srun $1";;
  *) break;;
esac; shift; done
for mount in ${mounts//,/ }; do [ -e "${mount%%:*}" ] || { echo "no $mount"; exit 4; }; done
case $PWD/ in ${mounts##*,}*|$RUNS/*) ;; *) exit 5;; esac
echo "image $image"; echo "mounts $mounts"; PATH=$CONTAINER exec "$@"
"""
PYTHON = '#!/bin/sh\necho "python $*"; echo "in $PWD with $PYTHONPATH"\n'


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def with_store(submission: Submission, store: Path) -> Submission:
    data = submission.job.data.model_copy(update={"store": store})
    return replace(submission, job=submission.job.model_copy(update={"data": data}))


def run_script(folder: Path, **container: Any) -> tuple[str, Path]:
    """What the batch script prints with a stand-in for srun; and the code's folder."""
    store = folder / "store"
    store.mkdir()
    submission = submission_in(folder / "runs", container=container)
    submission = with_store(submission, store)
    code = take_snapshot(submission.launch.path)
    written(folder / "bin" / "srun", PLUGIN)
    written(folder / "inside" / "python3", PYTHON)
    environment = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CONTAINER": str(folder / "inside"),
        "RUNS": str(folder / "runs"),
    }  # fmt: skip
    command = ["bash", "-c", render(submission)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, code


def test_an_image_of_pyxis(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    said, code = run_script(
        tmp_path, image="docker://site#train:1", mounts=[f"{data}:/data:ro"], arguments=["--no-container-mount-home"]
    )
    runs, store = tmp_path / "runs", tmp_path / "store"
    assert f"mounts {data}:/data:ro,{runs}:{runs},{store}:{store}\n" in said
    assert "image docker://site#train:1\n" in said and "plugin --no-container-mount-home\n" in said
    assert "python -u -m submitit.core._submit" in said and f"in {code} with {code}" in said


def test_another_container_by_a_prefix(tmp_path: Path) -> None:
    written(tmp_path / "inside" / "apptainer", '#!/bin/sh\necho "apptainer $1 $2 $3 $4"; shift 4; exec "$@"\n')
    said, code = run_script(tmp_path, prefix="apptainer exec --nv --bind=/shared '/shared/my train.sif'")
    assert "apptainer exec --nv --bind=/shared /shared/my train.sif\n" in said
    assert "python -u -m submitit.core._submit" in said and f"in {code} with {code}" in said
    assert "image \n" in said


def test_a_mount_of_ones_own_is_not_mounted_again_and_every_store_of_a_sweep_is_mounted(tmp_path: Path) -> None:
    first = submission_in(tmp_path / "runs", container={"image": "i", "mounts": [str(tmp_path)]})
    second = with_store(first, Path("/other"))
    arguments = make_executor([first, second], first.launch).parameters["srun_args"]
    assert f"--container-mounts={tmp_path}:{tmp_path},/data/store:/data/store,/other:/other" in arguments


def test_the_container_is_shown_before_anything_is_submitted(tmp_path: Path) -> None:
    assert describe_bring_up(submission_in(tmp_path, container={"image": "site#train"})).startswith(
        "every task: site#train\n"
    )


def test_a_cache_that_the_container_does_not_see_is_refused(tmp_path: Path) -> None:
    profile = slurm_profile(tmp_path, container={"image": "i", "mounts": ["/local:/elsewhere"]})
    storage = profile.storage.model_copy(update={"cache": Path("/local/cache")})
    submission = replace(submission_in(tmp_path), profile=profile.model_copy(update={"storage": storage}))
    with pytest.raises(UserError, match=r"slurm\.container\.mounts: storage\.cache is not mounted; .*/local/cache"):
        render(submission)


@pytest.mark.parametrize(
    ("container", "says"),
    [({}, "either an image or a prefix"), ({"image": "i", "prefix": "p"}, "either an image or a prefix"),
     ({"prefix": "p", "mounts": ["/a"]}, "write them into the prefix"),
     ({"image": "i", "mounts": ["/a:"]}, "not of the form SOURCE:TARGET"),
     ({"image": "i", "mounts": ["/a,/b"]}, "not of the form SOURCE:TARGET"),
     ({"image": "i", "arguments": ["--exclusive"]}, "not of the form --container-name"),
     ({"image": "i", "arguments": ["--container-image=j"]}, "--container-image is set by Wavetrain")],
)  # fmt: skip
def test_a_section_that_cannot_work_is_refused(tmp_path: Path, container: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        slurm_profile(tmp_path, container=container)


def test_a_node_without_scontrol_ends_at_once_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = LaunchFolder(RunDirectory(tmp_path / "run"))
    launch.write(job_of(), slurm_profile(tmp_path, container={"image": "i"}))
    monkeypatch.setenv("PATH", "/nowhere")
    code, text = run_node(launch, JobNode(41, 0, 0, ("n1", "n2")))
    assert code == 1 and "\n" not in text
    assert "n1: no scontrol here to requeue the job" in text and "slurm.max_requeues: 0" in text


def test_a_scontrol_that_does_not_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(
        tmp_path / "scontrol",
        "#!/bin/sh\necho 'error: DNS' >&2; echo 'fatal: no configuration' >&2; exit 1\n",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(UserError, match=r"n1: scontrol does not run here \(fatal: no configuration"):
        check_scontrol("n1")
    written(tmp_path / "scontrol", "#!/bin/sh\necho slurm 22.05.8\n")
    check_scontrol("n1")
