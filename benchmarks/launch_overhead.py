"""Seconds from the command to the first training step: each launcher, beside a bare torchrun of the same workers.

    python benchmarks/launch_overhead.py [SPEC] [--mini-slurm] [--cluster PROFILE ...] [--cluster-file FILE]

torchrun starts the same ranks on this machine without Ray, MLflow, checks or snapshot; `train` is the local launcher;
--mini-slurm brings up a real Slurm of several nodes here for `wavetrain submit` (two nodes); every --cluster is a
profile to which `wavetrain submit` hands the job. first step: the first optimizer step is done. end: evaluation and
tracking are done too (torchrun: the last step). CPU: seconds of all processes that the command started, which other
work on the machine changes less than the seconds on the clock; unknown where a batch system starts them. Every start
trains one epoch under a new name; without SPEC that is the small job of the tests, two workers.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.files import write_json
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.cluster import load_profile
from orchestrator.spec.job import JobSpec, load_job
from tests.e2e.slurm.cluster import slurm_cluster
from tests.jobs_for_tests import small_job
from tests.stores import make_random_store

LIMIT_S = 900
POLL_S = 0.05
MARKS = {
    "fork_server": "fork server",
    "gcs_server": "GCS",
    "raylet/raylet": "raylet",
    "ray::TrainController": "controller actor",
    "ray::RayTrainWorker": "ranks placed",
}
"""What a process's title holds, and what is begun by it."""
EVENTS = {"attempt": "engine ready", "step": "first step", "end": "trained"}


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path, nargs="?")
    parser.add_argument("--mini-slurm", action="store_true")
    parser.add_argument("--cluster", action="append", default=[])
    parser.add_argument("--cluster-file", type=Path)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.rank:
        run_rank(chosen.rank)
        return
    with tempfile.TemporaryDirectory() as folder, mini_slurm(chosen.mini_slurm, Path(folder)) as mini:
        spec = chosen.spec or small_spec(Path(folder))
        places = [(name, chosen.cluster_file, name) for name in chosen.cluster]
        places += [("slurm, 2 nodes", mini, "mini")] if mini else []
        parameters = {"spec": spec.name, "workers": load_job(spec).scale.most}
        rows = [row for _ in range(chosen.repeat) for row in measure(spec, places)]
    table = Table("launcher", "first step (s)", "beside torchrun", "end (s)", "CPU (s)")
    for row in rows:
        ratio = f"{row['first_step_s'] / rows[0]['first_step_s']:.1f}x"
        cpu = "" if row["cpu_s"] is None else f"{row['cpu_s']:.1f}"
        table.add_row(row["launcher"], f"{row['first_step_s']:.1f}", ratio, f"{row['end_s']:.1f}", cpu)
    Console().print(table)
    for row in rows:
        print(f"{row['launcher']}:", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in row["marks"].items()))
    record("launch_overhead", parameters, rows)


def measure(spec: Path, places: Sequence[tuple[str, Path | None, str]]) -> list[dict[str, Any]]:
    """A row for each launcher. places: name in the table, cluster file, profile."""
    job = load_job(spec, ["train.epochs=1"])
    rows = [{"launcher": "torchrun", **torchrun(spec, job)}]
    with tempfile.TemporaryDirectory() as folder:
        rows.append({"launcher": "train", **train(spec, Path(folder))})
    for label, file, name in places:
        run = f"{job.name}-launch-{secrets.token_hex(3)}"
        rows.append({"launcher": label, **submitted(spec, file, name, run)})
    return rows


def small_spec(folder: Path) -> Path:
    """The small job of the tests over random channels."""
    store = make_random_store(folder / "store", np.random.default_rng(7))
    path = folder / "small.yaml"
    path.write_text(json.dumps(small_job(store).model_dump(mode="json")))
    return path


@contextmanager
def mini_slurm(wanted: bool, folder: Path) -> Iterator[Path | None]:
    """A cluster file whose profile ``mini`` is a Slurm that runs here for the time of a ``with``."""
    if not wanted:
        yield None
        return
    with slurm_cluster() as cluster:
        os.environ.update(cluster.environment)
        section = {"partition": "gpu", "nodes": 2, "gpus_per_node": 0, "time": "0:30:00"}
        profile = {"launcher": "slurm", "network": {"interface": cluster.interface}, "slurm": section}
        profile["storage"] = {"runs": str(folder / "runs")}
        path = folder / "cluster.yaml"
        path.write_text(json.dumps({"default": "mini", "profiles": {"mini": profile}}))
        yield path


def torchrun(spec: Path, job: JobSpec) -> dict[str, Any]:
    """The bare ranks."""
    with tempfile.TemporaryDirectory() as folder:
        directory = RunDirectory(Path(folder))
        write_json(directory.spec, job.model_dump(mode="json"))
        command = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={job.scale.most}"]
        command += [str(Path(__file__).resolve()), str(spec), "--rank", folder]
        return follow(subprocess.Popen([sys.executable, *command]), directory, "end")


def run_rank(folder: Path) -> None:
    """What torchrun starts."""
    import torch
    import torch.distributed as dist

    from orchestrator.training.build import build
    from orchestrator.training.worker import train

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    train(build(WorkerConfig(folder, "cpu")))
    dist.destroy_process_group()


def train(spec: Path, folder: Path) -> dict[str, Any]:
    """The local launcher."""
    cluster = {"default": "here", "profiles": {"here": {"storage": {"runs": str(folder / "runs")}}}}
    (folder / "cluster.yaml").write_text(json.dumps(cluster))
    command = ["-m", "jobs.cli.main", "train", str(spec), "--set", "train.epochs=1", "--set", "name=launch"]
    process = subprocess.Popen([sys.executable, *command, "--cluster-file", str(folder / "cluster.yaml")])
    return follow(process, RunDirectory(folder / "runs" / "launch"), "state")


def submitted(spec: Path, file: Path | None, cluster: str, name: str) -> dict[str, Any]:
    """A profile's launcher."""
    runs = load_profile(file, cluster).storage.runs
    command = ["-m", "jobs.cli.main", "submit", str(spec), "--set", "train.epochs=1", "--set", f"name={name}"]
    command += ["--cluster", cluster] + (["--cluster-file", str(file)] if file else [])
    return follow(subprocess.Popen([sys.executable, *command]), RunDirectory(runs / name), "state")


class Watch:
    """Processes that a command has started: when each kind appeared, and the processor time of all of them."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.marks: dict[str, float] = {}
        self._process = psutil.Process(process.pid)
        self._cpu: dict[int, float] = {}

    def look(self) -> None:
        """Take in what runs now."""
        with suppress(psutil.Error):
            for process in [self._process, *self._process.children(recursive=True)]:
                with suppress(psutil.Error):
                    times, title = process.cpu_times(), " ".join(process.cmdline())
                    self._cpu[process.pid] = times.user + times.system
                    for part, mark in MARKS.items():
                        if part in title:
                            self.marks.setdefault(mark, time.time())

    @property
    def cpu_s(self) -> float | None:
        """Seconds so far; None where the command left the work to others."""
        return round(sum(self._cpu.values()), 1) if len(self._cpu) > 1 else None


def follow(process: "subprocess.Popen[bytes]", directory: RunDirectory, end: str) -> dict[str, Any]:
    """Seconds to the first ``step`` event and to the end, from now, and what happened until then."""
    started, found, watch = time.time(), dict[str, Any](), Watch(process)
    while "end" not in found:
        watch.look()
        status = directory.read_state().get("status")
        for event in events(directory):
            if event["kind"] in EVENTS:
                watch.marks.setdefault(EVENTS[event["kind"]], event["time"])
            if event["kind"] == "end" and end == "end":
                found["end"] = event["time"]
        assert status not in ("FAILED", "KILLED") and not process.poll(), f"{directory.path}: {status}"
        assert time.time() - started < LIMIT_S, f"{directory.path} does not end"
        if status == "FINISHED":
            found["end"] = time.time()
        time.sleep(POLL_S)
    while process.poll() is None:
        watch.look()
        time.sleep(POLL_S)
    marks = {name: round(at - started, 2) for name, at in sorted(watch.marks.items(), key=lambda item: item[1])}
    first = marks[EVENTS["step"]]
    return {"first_step_s": first, "end_s": round(found["end"] - started, 2), "cpu_s": watch.cpu_s, "marks": marks}


def events(directory: RunDirectory) -> list[dict[str, Any]]:
    """Whole lines so far."""
    if not directory.events.exists():
        return []
    lines = directory.events.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


if __name__ == "__main__":
    main()
