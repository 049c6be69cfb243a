"""The recipe of a job by measurement: errors on held-out sets after runs that differ from it in one thing each.

    python benchmarks/recipe.py --store data/quadriga [--spec jobs/hetercsi-cpu.yaml] [--samples 250]
        [--changes base,grid,...] [--seeds 42,43] [--parallel 2]

Every run trains one epoch of ``--samples`` samples of every set with one rank on one thread, under DeepSpeed as a run
of the command line does but without Ray, so that two of them fit on two cores. seconds: of its thread, which other work
hardly changes. What takes longer a sample than the base is made again with fewer samples under the name's end
"same time", where CHANGES says by how much. NMSE: dB of the linear mean over the held-out sets of --store, against the
noisy target. Runs that are finished already (in --folder) are not made again.
"""

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

from parts.record import record
from rich.console import Console
from rich.table import Table

from channels.files import write_json
from channels.store import ChannelStore
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.evaluation.score import MODEL, NOISY, averages, decibels
from orchestrator.run.folder import RunDirectory
from orchestrator.run.worker_config import WorkerConfig
from orchestrator.spec.job import JobSpec, load_job

TASKS = ("reconstruction", "time", "frequency")
CHANGES: dict[str, tuple[str, ...]] = {
    "base": (),
    "flat positions": ("model.position=flat",),
    "grid positions": ("model.position=grid",),
    "AdamW, lr 2e-3": ("train.optimizer=adamw", "train.muon_lr=0.02", "train.lr=2e-3"),
    "AdamW, lr 5e-3": ("train.optimizer=adamw", "train.muon_lr=0.02", "train.lr=5e-3"),
    "Muon, rates halved": ("train.lr=1.5e-3", "train.muon_lr=0.02"),
    "Muon, rates doubled": ("train.lr=6e-3", "train.muon_lr=0.08"),
    "batch 16": ("batching.global_batch=16",),
    "batch 64": ("batching.global_batch=64",),
    "packed": ("batching.strategy=packed",),
    "global": ("batching.strategy=global",),
    "loss by sample": ("train.loss_weighting=sample",),
    "augment: phase": ("data.augment=[phase]",),
    "augment: all": ("data.augment=[phase,conjugate,reverse_time,mirror_azimuth]",),
    "no warm-up": ("train.warmup_epochs=0",),
    "warm-up 0.3": ("train.warmup_epochs=0.3",),
    "half of the sets": ("data.sets=20",),
    "no weight decay": ("train.weight_decay=0",),
}
"""What differs from the base, as ``--set`` of the command line takes it."""
SAMPLES = {"half of the sets": 2.0}
"""Samples of a set over the base's, where another number keeps the cost."""
BY_SAME_TIME = {"global": 0.5}
"""Those that take longer a sample, and the share of samples that takes as long as the base."""


def main() -> None:
    """Train what is missing, score, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", type=Path, default=Path("jobs/hetercsi-cpu.yaml"))
    parser.add_argument("--store", type=Path, required=True, help="held-out sets that are scored")
    parser.add_argument("--samples", type=int, default=250)
    parser.add_argument("--changes", default=None, help="some of them, by name (default: all)")
    parser.add_argument("--seeds", default="42")
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/recipe"))
    arguments = parser.parse_args()
    names = list(CHANGES) if arguments.changes is None else arguments.changes.split(",")
    runs = [
        (name, int(seed), share)
        for name in names
        for seed in arguments.seeds.split(",")
        for share in (1.0, BY_SAME_TIME.get(name))
        if share is not None
    ]
    # A process a run: DeepSpeed has one group of ranks a process.
    with multiprocessing.get_context("spawn").Pool(arguments.parallel, maxtasksperchild=1) as pool:
        rows = pool.starmap(one_run, [(arguments, *run) for run in runs], chunksize=1)
    print_table(rows)
    asked = {"spec": str(arguments.spec), "samples": arguments.samples, "seeds": arguments.seeds}
    record("recipe", asked, rows)


def one_run(arguments: argparse.Namespace, name: str, seed: int, share: float) -> dict[str, Any]:
    """A line of the table; from the run's folder where it is finished."""
    label = name if share == 1.0 else f"{name}, same time"
    folder = arguments.folder / f"{label.replace(' ', '-').replace(',', '').replace(':', '')}.{seed}"
    kept = folder / "row.json"
    if not kept.exists():
        samples = round(arguments.samples * SAMPLES.get(name, 1.0) * share)
        job = load_job(arguments.spec, [
            "train.epochs=1", "scale.workers=1", f"data.samples={samples}", "batching.partitions=1",
            "checkpoint.every_steps=null", "checkpoint.memory=false", "train.loader_threads=1",
            "train.warmup_epochs=0.1", f"seed={seed}", *CHANGES[name],
        ])  # fmt: skip
        found = train_alone(folder, job)
        write_json(kept, {"change": label, "seed": seed} | found | scores(folder, arguments.store, job))
    row: dict[str, Any] = json.loads(kept.read_text())
    print(f"{label}, seed {seed}: {row}", flush=True)
    return row


def train_alone(folder: Path, job: JobSpec) -> dict[str, Any]:
    """Train in this process as the only rank."""
    import torch
    import torch.distributed as dist

    from orchestrator.training.build import build
    from orchestrator.training.worker import train

    torch.set_num_threads(1)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_SIZE": "1"}
    folder.mkdir(parents=True)
    dist.init_process_group("gloo", init_method=f"file://{(folder / 'group').absolute()}", rank=0, world_size=1)
    directory = RunDirectory(folder)
    write_json(directory.spec, job.model_dump(mode="json"))
    begin = time.thread_time()
    train(build(WorkerConfig(folder, "cpu")))
    seconds = time.thread_time() - begin
    dist.destroy_process_group()
    lines = [json.loads(line) for line in directory.events.read_text().splitlines()]
    losses = [line["metrics"]["train/loss"] for line in lines if line["kind"] == "step"]
    last = losses[-max(1, len(losses) // 20) :]
    return {"steps": len(losses), "seconds": round(seconds), "loss": round(sum(last) / len(last), 4)}


def scores(folder: Path, store: Path, job: JobSpec) -> dict[str, float]:
    """Average of each task in dB."""
    evaluation = job.evaluation.model_copy(update={"references": False, "link_snr_db": None})
    scored = job.model_copy(update={"evaluation": evaluation})
    names = [name for name, entry in ChannelStore.open(store).sets.items() if entry.role == "zeroshot"]
    found = [score for name in names for score in evaluate_set(RunDirectory(folder).export, store, name, scored)]
    means = averages(found)
    return {task: round(decibels(means[task, MODEL, NOISY]), 2) for task in TASKS}


def print_table(rows: list[dict[str, Any]]) -> None:
    """The table on screen."""
    table = Table(title="One change at a time")
    for column in rows[0]:
        table.add_column(column, justify="left" if column == "change" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in row.values()))
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
