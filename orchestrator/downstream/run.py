"""A whole comparison: every encoder at every patch side, in this process or as Ray tasks, then tables and figures."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from channels.errors import UserError
from channels.files import clear_unfinished
from orchestrator.downstream.cost import cost_of
from orchestrator.downstream.encoders import Encoder, check_encoder, encoders_at
from orchestrator.downstream.helpers import helpers
from orchestrator.downstream.pool import Pool
from orchestrator.downstream.results.notes import notes_of
from orchestrator.downstream.results.scores import Cost, Score
from orchestrator.downstream.spec import DownstreamSpec
from orchestrator.downstream.work import Bench, Say, open_bench, run_work
from orchestrator.run.file_lock import try_lock

LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison gives. notes: what a table must be read with, a sentence each."""

    bench: Bench
    encoders: tuple[Encoder, ...]
    scores: tuple[Score, ...]
    costs: tuple[Cost, ...]
    notes: tuple[str, ...]


def prepare(spec: DownstreamSpec, folders: Mapping[str, Path | None], device: str) -> tuple[Bench, tuple[Encoder, ...]]:
    """Everything that can be checked, checked; folders: of the exports by the encoders' names, None for raw.

    Raises:
        UserError: an encoder, a task, a label, a split or a share is not what it must be.
    """
    encoders = tuple(encoder for name, folder in folders.items() for encoder in encoders_at(name, folder, spec.patches))
    bench = open_bench(spec)
    for encoder in encoders:
        check_encoder(encoder, bench.pool, spec.unfreeze, device)
    return bench, encoders


def compare(
    bench: Bench,
    encoders: Sequence[Encoder],
    folder: Path,
    device: str,
    say: Say,
    *,
    processes: int = 1,
    on_ray: bool = False,
) -> Comparison:
    """The scores of all encoders; what the folder has is not computed again.

    processes: that share the work here. on_ray: as tasks of the Ray that this process is connected to, one an encoder
    and patch side, then one after the other for the costs, which find store, exports and folder under the same paths.

    Raises:
        UserError: another process works in the folder, or an encoder gives no embeddings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        lock = stack.enter_context((folder / LOCK).open("w"))
        if not try_lock(lock):
            what = "another process works on this comparison"
            raise UserError(what, where=str(folder), mend="wait for it, or give this one another --name")
        clear_unfinished(folder)
        if on_ray:
            found = _on_ray(bench, encoders, folder, device, say)
        else:
            found = _here(bench, encoders, folder, device, say, processes)
    scores = tuple(score for part, _ in found for score in part)
    costs = tuple(cost for _, cost in found)
    return Comparison(bench, tuple(encoders), scores, costs, notes_of(bench, encoders, scores))


def _here(
    bench: Bench, encoders: Sequence[Encoder], folder: Path, device: str, say: Say, processes: int
) -> list[tuple[list[Score], Cost]]:
    import torch

    threads = torch.get_num_threads()
    # Heads are too small for several threads; the cores go to the helpers.
    torch.set_num_threads(1)
    try:
        with helpers(processes - 1, bench, encoders, folder, device):
            for encoder in encoders:
                run_work(bench, encoder, folder, device, say, wait=False)
        # Alone, so that nothing disturbs the clock.
        return [
            (run_work(bench, encoder, folder, device, say), cost_of(encoder, bench.pool, device, folder))
            for encoder in encoders
        ]
    finally:
        torch.set_num_threads(threads)


def _on_ray(
    bench: Bench, encoders: Sequence[Encoder], folder: Path, device: str, say: Say
) -> list[tuple[list[Score], Cost]]:
    import ray

    resources: dict[str, Any] = {"num_cpus": 1, "num_gpus": int(device == "cuda")}
    work, timed = ray.remote(**resources)(_scores_remotely), ray.remote(**resources)(_cost_remotely)
    references = {work.remote(bench, encoder, folder.absolute(), device): encoder for encoder in encoders}
    waiting, scores = list(references), {}
    while waiting:
        ready, waiting = ray.wait(waiting)
        for reference in ready:
            lines, scores[references[reference]] = _result(reference)
            for line in lines:
                say(line)
    # One after the other, so that nothing disturbs the clock.
    return [
        (scores[encoder], _result(timed.remote(encoder, bench.pool, device, folder.absolute()))) for encoder in encoders
    ]


def _result(reference: Any) -> Any:
    """Of a task. Raises the UserError that it raised."""
    import ray
    from ray.exceptions import RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise


def _scores_remotely(bench: Bench, encoder: Encoder, folder: Path, device: str) -> tuple[list[str], list[Score]]:
    import torch

    torch.set_num_threads(1)
    lines: list[str] = []
    return lines, run_work(bench, encoder, folder, device, lines.append)


def _cost_remotely(encoder: Encoder, pool: Pool, device: str, folder: Path) -> Cost:
    import torch

    torch.set_num_threads(1)
    return cost_of(encoder, pool, device, folder)
