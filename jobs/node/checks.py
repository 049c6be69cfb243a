"""What is checked on every node of a Slurm job before training, and which node is at fault."""

import os

from jobs.node.doctor import examine_storage
from jobs.node.network_check import Group, RankCheckError, describe, read, run_ranks
from jobs.node.ray_node import RayNode, Share
from jobs.node.rendezvous import BadNodeError, BootstrapError, Rendezvous
from orchestrator.spec.cluster import Profile
from orchestrator.spec.job import ModelSection

RESULT = "network.json"
COMPILED = ("mamba_ssm", "triton")
"""Values of a model's option ``scan`` that leave no other choice; ``auto`` runs on any node, if more slowly."""


def check_share(share: Share) -> None:
    """Compare with what Slurm granted and with what is usable.

    Raises:
        BootstrapError: fewer CPUs than the workers of this node need.
        BadNodeError: fewer GPUs.
    """
    granted = int(os.environ.get("SLURM_CPUS_PER_TASK") or os.environ.get("SLURM_CPUS_ON_NODE") or share.cpus)
    if granted < share.cpus:
        raise BootstrapError(f"Slurm granted {granted} CPUs, the workers of this node need {share.cpus}")
    granted_gpus = int(os.environ.get("SLURM_GPUS_ON_NODE") or share.gpus)
    if granted_gpus < share.gpus:
        raise BootstrapError(f"Slurm granted {granted_gpus} GPUs, the workers of this node need {share.gpus}")
    if share.gpus:
        # Importing torch takes seconds that a node without GPUs need not wait.
        from orchestrator.monitoring.whole_gpus import count_devices

        gpus = count_devices()
        if gpus.for_ranks(share.gpus) < share.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", "not set")
            raise BadNodeError(f"{gpus} are usable (CUDA_VISIBLE_DEVICES {visible}), {share.gpus} GPUs are needed")


def check_machine(profile: Profile) -> None:
    """The quick checks of ``wavetrain doctor``, before Ray starts.

    Raises:
        BadNodeError: what failed.
    """
    findings = [finding for finding in examine_storage(profile) if finding.verdict == "failed"]
    if findings:
        raise BadNodeError("; ".join(f"{finding.check}: {finding.found}" for finding in findings))


def check_ranks(rendezvous: Rendezvous, node: RayNode, profile: Profile, workers: int, scan: str) -> None:
    """Every rank tries its device and all of them exchange data, in processes that end before training begins.

    scan: backend of the selective scan that must run too; empty: none.

    Raises:
        BadNodeError: a device of this node does not work.
        BootstrapError: the ranks do not reach each other, or another node has failed.
    """
    if not profile.network.check:
        return
    this, here = rendezvous.node, workers // len(rendezvous.node.hosts)
    host, first_port = rendezvous.read(rendezvous.head)["keepalive"]
    port = first_port + node.window.rank_check - node.window.first
    limit_s = profile.time_limits.rank_check_s
    group = Group(
        host, port, workers, this.rank * here, here, this.host, profile.device, limit_s, scan, profile.nic_binding
    )

    def watch() -> None:
        if failures := rendezvous.failures():
            raise BootstrapError("; ".join(failures))

    try:
        run_ranks(
            group, rendezvous.folder / RESULT, lambda local: rendezvous.log(f"ranks-{local}"), node.environment, watch
        )
    except RankCheckError as error:
        raise (BadNodeError if error.bad_device else BootstrapError)(str(error)) from None


def wanted_scan(model: ModelSection) -> str:
    """The compiled backend of the selective scan without which the job cannot run; empty: there is none."""
    wanted = model.options.get("scan")
    return str(wanted) if wanted in COMPILED else ""


def bad_nodes(rendezvous: Rendezvous, profile: Profile) -> dict[str, str]:
    """Nodes slower than the profile allows, with the reason; what was measured goes to this node's output."""
    path = rendezvous.folder / RESULT
    if not path.exists():
        return {}
    found, network = read(path), profile.network
    warning = " (far below the others)" if found.is_suspicious else ""
    print(f"network: {describe(found)}{warning}", flush=True)  # noqa: T201 - the job's output is its log
    for rail in found.slow_rails:
        print(f"network: {rail} exchanges {rail.gb_s:.2f} GB/s, far below the others", flush=True)  # noqa: T201
    slow: dict[str, str] = {}
    if (least := network.least_rail_gb_s) is not None:
        limit = f"network.least_rail_gb_s is {least:g}"
        slow |= {
            rail.host: f"{rail} exchanges {rail.gb_s:.2f} GB/s, {limit}" for rail in found.rails if rail.gb_s < least
        }
    if (least := network.least_gb_s) is not None:
        best, limit = "with the best of the others", f"network.least_gb_s is {least:g}"
        nodes = found.nodes.items()
        slow |= {host: f"{host} exchanges {rate:.2f} GB/s {best}, {limit}" for host, rate in nodes if rate < least}
    return slow
