"""Requests that Slurm would refuse or keep waiting for ever, told before they are queued."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from jobs.slurm.limits import check_limits
from jobs.slurm.submission import prepare_submission
from tests.jobs.launches import job_of, slurm_profile, submission_in

ANSWERS = {
    "partition": "PartitionName=gpu AllowAccounts=ALL MaxNodes=UNLIMITED MaxTime=2-00:00:00 TotalNodes=4 State=UP",
    "%R": "gpu\ncpu\n",
    "account": "radio\nvision\n",
    "%G": "3|gpu:h800:8(S:0-1)|192|2000000+\n1|(null)|64|500000\n",
}


def slurm_says(**changed: str | None) -> Any:
    """Answers of scontrol, sinfo and sacctmgr; None: the program fails."""

    def run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        text = " ".join(command)
        key = next(key for key in ("%G", "%R", "account", "partition") if key in text)
        answer = changed.get(key, ANSWERS[key])
        return subprocess.CompletedProcess(command, int(answer is None), answer or "", "error")

    return run


def test_a_request_that_fits(tmp_path: Path) -> None:
    check_limits(submission_in(tmp_path, account="radio", memory_gb=1900), slurm_says())


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"time": "2-00:01:00"}, r"slurm\.time: 2-00:01:00 asked for, partition gpu allows 2-00:00:00"),
        ({"nodes": 8, "gpus_per_node": 2}, r"slurm\.nodes: 8 asked for, partition gpu gives 4"),
        ({"gpus_per_node": 16}, r"slurm\.gpus_per_node: 16 asked for, the nodes of gpu have 8"),
        ({"cpus_per_gpu": 25}, r"200 CPUs a node asked for, the nodes of gpu have 192"),
        ({"memory_gb": 2000}, r"slurm\.memory_gb: 2000 asked for, the nodes of gpu have 1953"),
        ({"account": "radioo"}, r"no account 'radioo'; \w+ may use radio, vision"),
    ],
)
def test_requests_over_a_limit(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_limits(submission_in(tmp_path, **asked), slurm_says())


MIXED = "2|gpu:a100:8|64|500000\n4|gpu:a100:4|192|1000000\n8|(null)|192|4000000\n"
"""Few CPUs beside many GPUs, much memory without any."""


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpus_per_node": 8, "cpus_per_gpu": 12}, "2 x 8 GPUs, 96 CPUs asked for, 0 nodes of gpu have that each"),
        ({"gpus_per_node": 4, "memory_gb": 2000}, "2000 GB asked for, 0 nodes .* it holds 2 x 8 GPUs, 64 CPUs, 488 GB"),
        ({"gpus_per_node": 8, "cpus_per_gpu": 8, "nodes": 4}, "4 x 8 GPUs, 64 CPUs asked for, 2 nodes of gpu"),
    ],
)
def test_a_request_that_no_kind_of_node_can_take(tmp_path: Path, asked: dict[str, Any], says: str) -> None:
    submission = prepare_submission(job_of(8), slurm_profile(tmp_path, **asked))
    with pytest.raises(UserError, match=says):
        check_limits(submission, slurm_says(**{"%G": MIXED}))


def test_kinds_of_nodes_that_have_enough_are_counted_together(tmp_path: Path) -> None:
    check_limits(submission_in(tmp_path, nodes=4, gpus_per_node=4, cpus_per_gpu=16), slurm_says(**{"%G": MIXED}))


def test_an_unknown_partition_is_told_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no partition 'gpu'; known: cpu, gpu"):
        check_limits(submission_in(tmp_path), slurm_says(partition=None))


def test_a_silent_controller(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Slurm does not answer"):
        check_limits(submission_in(tmp_path), slurm_says(**{"partition": None, "%R": None}))


def test_without_accounting_any_account_may_be_named(tmp_path: Path) -> None:
    check_limits(submission_in(tmp_path, account="any"), slurm_says(account=None))
