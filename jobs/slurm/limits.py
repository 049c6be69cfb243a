"""What a partition gives, compared with what a profile asks for, before anything is queued."""

import getpass
import re

from channels.errors import UserError
from jobs.slurm.state import Run, run_command
from jobs.slurm.submission import Submission, cpus_a_node, minutes


def check_limits(submission: Submission, run: Run = run_command) -> None:
    """Partition, account, walltime, nodes, GPUs, CPUs and memory.

    Raises:
        UserError: Slurm would refuse the job, or let it wait for ever.
    """
    slurm = submission.slurm
    partition = _partition(slurm.partition, run)
    _check_account(slurm.account, run)
    longest = partition.get("MaxTime", "UNLIMITED")
    if longest != "UNLIMITED" and minutes(slurm.time) > minutes(longest):
        raise _over("time", slurm.time, f"partition {slurm.partition} allows {longest}")
    for name in ("TotalNodes", "MaxNodes"):
        most = partition.get(name, "UNLIMITED")
        if most.isdigit() and slurm.nodes > int(most):
            raise _over("nodes", slurm.nodes, f"partition {slurm.partition} gives {most}")
    gpus, cpus, memory_mb = _largest_node(slurm.partition, run)
    if slurm.gpus_per_node > gpus:
        raise _over("gpus_per_node", slurm.gpus_per_node, f"the nodes of {slurm.partition} have {gpus}")
    needed = cpus_a_node(submission.job, submission.profile)
    if needed > cpus:
        raise _over("cpus_per_gpu", f"{needed} CPUs a node", f"the nodes of {slurm.partition} have {cpus}")
    if slurm.memory_gb is not None and slurm.memory_gb * 1024 > memory_mb:
        raise _over("memory_gb", slurm.memory_gb, f"the nodes of {slurm.partition} have {memory_mb // 1024}")


def _over(field: str, asked: object, given: str) -> UserError:
    return UserError(f"{asked} asked for, {given}", where=f"cluster.yaml: slurm.{field}", mend="ask for less")


def _partition(name: str, run: Run) -> dict[str, str]:
    done = run(["scontrol", "--oneliner", "show", "partition", name])
    if done.returncode:
        known = sorted(set(run(["sinfo", "--noheader", "--format=%R"]).stdout.split()))
        if not known:
            reason = (done.stderr.strip() or "no answer").splitlines()[0]
            raise UserError(f"Slurm does not answer ({reason})", where="scontrol", mend="try scontrol ping")
        raise UserError(
            f"no partition {name!r}", where="cluster.yaml: slurm.partition", mend=f"known: {', '.join(known)}"
        )
    return dict(re.findall(r"(\w+)=(\S+)", done.stdout))


def _check_account(account: str | None, run: Run) -> None:
    if account is None:
        return
    user = getpass.getuser()
    done = run(["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account"])
    known = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if known and account not in known:
        mend = f"{user} may use {', '.join(known)}"
        raise UserError(f"no account {account!r}", where="cluster.yaml: slurm.account", mend=mend)


def _largest_node(partition: str, run: Run) -> tuple[int, int, int]:
    """Most GPUs, CPUs and MB of memory that a node of the partition has."""
    listed = run(["sinfo", "--noheader", f"--partition={partition}", "--format=%G|%c|%m"]).stdout.split()
    gpus, cpus, memory = [0], [0], [0]
    for line in listed:
        resources, count, megabytes = line.split("|")
        gpus.append(sum(int(number) for number in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", resources)))
        cpus.append(int(count.rstrip("+")))
        memory.append(int(megabytes.rstrip("+")))
    return max(gpus), max(cpus), max(memory)
