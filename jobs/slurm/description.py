"""What a submission will do, in words: the batch script, and how its nodes bring up Ray."""

from jobs.node.port_window import FIRST, WIDTH, WINDOWS
from jobs.node.ray_node import share_of
from jobs.slurm.executor import render
from jobs.slurm.submission import Submission


def describe_submission(submission: Submission) -> str:
    """Batch script and bring-up."""
    script = f"\n--- batch script, in {submission.launch.submitted}\n{render(submission)}"
    return f"{script}\n--- Ray on the nodes of the job\n{describe_bring_up(submission)}"


def describe_bring_up(submission: Submission) -> str:
    """What the tasks of the job will do, in order."""
    wanted, workers = submission.slurm, submission.job.scale.most
    share = share_of(submission.profile, workers, wanted.nodes)
    rendezvous = submission.launch.path / "attempts" / "JOB-RESTART"
    interface, last = submission.profile.network.interface, FIRST + WIDTH * WINDOWS - 1
    size = f"--num-cpus={share.cpus} --num-gpus={share.gpus}"
    container = wanted.container
    lines = [] if container is None else [f"every task: {container.image or container.prefix}"]
    lines += [
        f"ports: {WIDTH} consecutive ones of {FIRST}-{last}, chosen by job id, probed on the address of {interface}",
        f"node 0: writes {rendezvous}/token (mode 0600), then",
        f"  ray start --head --block --node-ip-address=ADDRESS --port=PORT {size} --include-dashboard=false",
    ]
    if wanted.nodes > 1:
        lines += [
            f"the other {wanted.nodes - 1}: wait for {rendezvous}/head.json, then",
            f"  ray start --block --address=ADDRESS:PORT {size}",
        ]
    if submission.profile.network.check:
        lines.append("every node: its ranks try their devices and exchange data, in processes that end before training")
    if submission.profile.network.env:
        variables = " ".join(f"{name}={value}" for name, value in sorted(submission.profile.network.env.items()))
        lines.append(f"ranks: {variables}")
    lines += [
        f"node 0, when all {wanted.nodes} are ready (in at most {wanted.bootstrap_timeout_s} s): {workers} ranks",
        f"signal {wanted.signal_lead_s} s before the time limit: checkpoint, stop, scontrol requeue "
        f"(at most {wanted.max_requeues} times)",
    ]
    return "\n".join(lines)
