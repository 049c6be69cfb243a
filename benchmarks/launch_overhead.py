"""Seconds from the command to the first training step: each launcher, beside a bare torchrun of the same workers.

    python benchmarks/launch_overhead.py SPEC [--cluster PROFILE ...] [--cluster-file FILE] [--repeat N]

torchrun starts the same ranks on this machine without Ray, MLflow, checks or snapshot; `train` is the local launcher;
every --cluster is a profile to which `wavetrain submit` hands the job. first step: the first optimizer step is done.
end: evaluation and tracking are done too (torchrun: the last step). Every start trains one epoch under a new name.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import record
from rich.console import Console
from rich.table import Table

from channels.files import write_json
from orchestrator.cluster import load_profile
from orchestrator.config import JobSpec, load_job
from orchestrator.rundir import RunDirectory

LIMIT_S = 900
POLL_S = 0.05


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--cluster", action="append", default=[])
    parser.add_argument("--cluster-file", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank:
        run_rank(chosen.rank)
        return
    job = load_job(chosen.spec, ["train.epochs=1"])
    rows = []
    for number in range(chosen.repeat):
        rows.append({"launcher": "torchrun", **torchrun(chosen.spec, job)})
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"launcher": "train", **train(chosen.spec, Path(folder))})
        for name in chosen.cluster:
            rows.append({"launcher": name, **submitted(chosen, name, f"{job.name}-launch-{os.getpid()}-{number}")})
    table = Table("launcher", "first step (s)", "end (s)")
    for row in rows:
        table.add_row(row["launcher"], f"{row['first_step_s']:.1f}", f"{row['end_s']:.1f}")
    Console().print(table)
    record("launch_overhead", {"spec": chosen.spec.name, "workers": job.scale.workers}, rows)


def torchrun(spec: Path, job: JobSpec) -> dict[str, float]:
    """The bare ranks."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        write_json(directory.spec, job.model_dump(mode="json"))
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.scale.workers}"]
        command += [str(Path(__file__).resolve()), str(spec), "--rank", folder]
        return follow(subprocess.Popen([sys.executable, *command]), directory, "end")


def run_rank(folder: Path) -> None:
    """What torchrun starts."""
    import torch
    import torch.distributed as dist

    from orchestrator.worker import Worker

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    Worker(RunDirectory(folder), device="cpu").run()
    dist.destroy_process_group()


def train(spec: Path, folder: Path) -> dict[str, float]:
    """The local launcher."""
    cluster = {"default": "here", "profiles": {"here": {"storage": {"runs": str(folder / "runs")}}}}
    (folder / "cluster.yaml").write_text(json.dumps(cluster))
    command = ["-m", "jobs.cli", "train", str(spec), "--set", "train.epochs=1", "--set", "name=launch"]
    process = subprocess.Popen([sys.executable, *command, "--cluster-file", str(folder / "cluster.yaml")])
    return follow(process, RunDirectory(folder / "runs" / "launch"), "state")


def submitted(chosen: argparse.Namespace, cluster: str, name: str) -> dict[str, float]:
    """A profile's launcher."""
    runs = load_profile(chosen.cluster_file, cluster).storage.runs
    command = ["-m", "jobs.cli", "submit", str(chosen.spec), "--set", "train.epochs=1", "--set", f"name={name}"]
    command += ["--cluster", cluster] + (["--cluster-file", str(chosen.cluster_file)] if chosen.cluster_file else [])
    return follow(subprocess.Popen([sys.executable, *command]), RunDirectory(runs / name), "state")


def follow(process: "subprocess.Popen[bytes]", directory: RunDirectory, end: str) -> dict[str, float]:
    """Seconds to the first ``step`` event and to the end, from now."""
    started, found = time.time(), dict[str, Any]()
    while "end" not in found:
        for event in events(directory):
            if event["kind"] == "step":
                found.setdefault("step", event["time"])
            if event["kind"] == "end" and end == "end":
                found["end"] = event["time"]
        status = directory.read_state().get("status")
        assert status not in ("FAILED", "KILLED") and not process.poll(), f"{directory.path}: {status}"
        assert time.time() - started < LIMIT_S, f"{directory.path} does not end"
        if status == "FINISHED":
            found["end"] = time.time()
        time.sleep(POLL_S)
    process.wait(60)
    return {"first_step_s": round(found["step"] - started, 2), "end_s": round(found["end"] - started, 2)}


def events(directory: RunDirectory) -> list[dict[str, Any]]:
    """Whole lines so far."""
    if not directory.events.exists():
        return []
    lines = directory.events.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    main()
