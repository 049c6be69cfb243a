"""What a partition gives, compared with what a profile requests, before anything is queued."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from channels.errors import UserError
from jobs.slurm.state import Run, run_command
from jobs.slurm.submission import Submission, cpus_a_node, minutes
from orchestrator.control.provenance import user_name


def is_answering(run: Run = run_command) -> bool:
    """Whether there is a Slurm here to compare with."""
    try:
        return run(["scontrol", "ping"]).returncode == 0
    except UserError:
        return False


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
    wanted = NodeType(
        slurm.nodes,
        slurm.gpus_per_node,
        cpus_a_node(submission.job, submission.profile),
        (slurm.memory_gb or 0) * 1024,
    )
    _check_nodes(wanted, slurm.partition, _node_types(slurm.partition, run))


@dataclass(frozen=True, slots=True)
class NodeType:
    """So many nodes of one kind. gpus, cpus, memory_mb: of each."""

    count: int
    gpus: int
    cpus: int
    memory_mb: int

    def holds(self, wanted: "NodeType") -> bool:
        """Whether one of these nodes has what is wanted of one."""
        return self.gpus >= wanted.gpus and self.cpus >= wanted.cpus and self.memory_mb >= wanted.memory_mb

    def __str__(self) -> str:
        parts = {"GPUs": self.gpus, "CPUs": self.cpus, "GB": self.memory_mb // 1024}
        return f"{self.count} x {', '.join(f'{number} {unit}' for unit, number in parts.items() if number)}"


def _check_nodes(wanted: NodeType, partition: str, types: Sequence[NodeType]) -> None:
    """Enough nodes have everything that is requested of each."""
    most = {name: max((getattr(kind, name) for kind in types), default=0) for name in ("gpus", "cpus", "memory_mb")}
    if wanted.gpus > most["gpus"]:
        raise _over("gpus_per_node", wanted.gpus, f"the nodes of {partition} have {most['gpus']}")
    if wanted.cpus > most["cpus"]:
        raise _over("cpus_per_gpu", f"{wanted.cpus} CPUs a node", f"the nodes of {partition} have {most['cpus']}")
    if wanted.memory_mb > most["memory_mb"]:
        given = f"the nodes of {partition} have {most['memory_mb'] // 1024}"
        raise _over("memory_gb", wanted.memory_mb // 1024, given)
    fitting = sum(kind.count for kind in types if kind.holds(wanted))
    if wanted.count > fitting:
        given = f"{fitting} nodes of {partition} have that each; it holds {' and '.join(map(str, types))}"
        raise _over("nodes", str(wanted), given)


def _over(field: str, requested: object, given: str) -> UserError:
    return UserError(f"{requested} asked for, {given}", where=f"cluster profile: slurm.{field}", mend="ask for less")


def _partition(name: str, run: Run) -> dict[str, str]:
    done = run(["scontrol", "--oneliner", "show", "partition", name])
    if done.returncode:
        known = sorted(set(run(["sinfo", "--noheader", "--format=%R"]).stdout.split()))
        if not known:
            reason = (done.stderr.strip() or "no answer").splitlines()[0]
            raise UserError(f"Slurm does not answer ({reason})", where="scontrol", mend="try scontrol ping")
        raise UserError(
            f"no partition {name!r}", where="cluster profile: slurm.partition", mend=f"known: {', '.join(known)}"
        )
    return dict(re.findall(r"(\w+)=(\S+)", done.stdout))


def _check_account(account: str | None, run: Run) -> None:
    if account is None:
        return
    user = user_name()
    done = run(["sacctmgr", "--noheader", "--parsable2", "show", "associations", f"user={user}", "format=account"])
    known = sorted(set(done.stdout.split())) if done.returncode == 0 else []
    if known and account not in known:
        mend = f"{user} may use {', '.join(known)}"
        raise UserError(f"no account {account!r}", where="cluster profile: slurm.account", mend=mend)


def _node_types(partition: str, run: Run) -> list[NodeType]:
    """What the nodes of a partition have, whatever state they are in."""
    command = ["sinfo", "--noheader", "--exact", f"--partition={partition}", "--format=%D|%G|%c|%m"]
    types = []
    for line in run(command).stdout.split():
        count, resources, cpus, megabytes = line.split("|")
        gpus = sum(int(number) for number in re.findall(r"\bgpu(?::[^:,()]+)?:(\d+)", resources))
        types.append(NodeType(int(count), gpus, int(cpus.rstrip("+")), int(megabytes.rstrip("+"))))
    return types
