"""What a task is to predict of every sample of a pool: classes or numbers, checked before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from channels.errors import UserError
from orchestrator.downstream.codebook import best_beams, dft_codebook
from orchestrator.downstream.pool import READ_AT_ONCE, Pool, PooledSet
from orchestrator.downstream.task import Task


@dataclass(frozen=True, slots=True)
class Targets:
    """values: int64 [N] classes, or float32 [N, numbers]. outputs: of the head. source: where they come from."""

    values: NDArray[Any]
    outputs: int
    source: str


def find_targets(task: Task, pool: Pool) -> Targets:
    """The labels of a task that is not on patches.

    Raises:
        UserError: a set without the label, an origin that not all sets have, a label of another shape or with
            values that are none, sets whose codebooks differ, a codebook that the array does not resolve.
    """
    found = [one.label(task.label) for one in pool.sets]
    names = [label[0] for label in found if label is not None]
    if len(names) == len(pool.sets):
        if not task.is_classification:
            _check_origins(task, pool)
        values = [_stored(task, one, name) for one, name in zip(pool.sets, names, strict=True)]
        source = f"label {' or '.join(dict.fromkeys(names))}"
        if task.is_classification:
            return _of_classes(task, np.concatenate(values), source)
        return _of_numbers(task, values, source)
    if task.codebook is None:
        raise _missing(task, pool)
    return _beams(task, pool)


def check_classes(task: Task, trained: NDArray[np.int64], tested: NDArray[np.int64], where: str) -> int:
    """Test samples of classes that no training sample has.

    Raises:
        UserError: the training samples are of one class, or the task refuses absent ones.
    """
    known = np.unique(trained)
    if len(known) < 2:
        mend = "take a larger share of the labels, another split, or another label"
        raise UserError(f"task {task.name}: all training samples are of class {known[0]}", where=where, mend=mend)
    absent = ~np.isin(tested, known)
    if absent.any() and task.absent_classes == "refuse":
        what = f"task {task.name}: class {np.unique(tested[absent])[0]} is tested, but no training sample has it"
        mend = "take a larger share of the labels or another split, or set absent_classes to count"
        raise UserError(what, where=where, mend=mend)
    return int(absent.sum())


def _missing(task: Task, pool: Pool) -> UserError:
    one = next(one for one in pool.sets if one.label(task.label) is None)
    has = ", ".join(sorted(one.labels)) or "no label at all"
    mend = f"it has {has}; import it with its labels, leave it out with sets, or leave out the task"
    return UserError(f"task {task.name}: no label {' or '.join(task.label)}", where=f"set {one.name}", mend=mend)


def _stored(task: Task, one: PooledSet, name: str) -> NDArray[Any]:
    values = one.labels[name]
    where = f"set {one.name}, label {name}"
    if task.is_classification:
        if values.shape != (one.count,) or values.dtype.kind not in "biu":
            what = f"task {task.name}: shape {values.shape} of type {values.dtype}, not one whole number a sample"
            raise UserError(what, where=where, mend="correct the label, or name another one in the task")
        return values.astype(np.int64)
    columns = values[:, None] if values.ndim == 1 else values
    wanted = columns.shape[1] if task.columns is None else task.columns
    if columns.ndim != 2 or columns.shape[1] < wanted or columns.dtype.kind not in "fiu":
        what = f"task {task.name}: shape {values.shape} of type {values.dtype}, not {wanted} numbers a sample"
        raise UserError(what, where=where, mend="correct the label, or name another one in the task")
    if not np.isfinite(columns[:, :wanted]).all():
        row = int(np.argmin(np.isfinite(columns[:, :wanted]).all(axis=1)))
        raise UserError(f"task {task.name}: sample {row} has no finite number", where=where, mend="correct the label")
    return _from_origin(task, one, columns[:, :wanted].astype(np.float64))


def _check_origins(task: Task, pool: Pool) -> None:
    """Raises UserError where numbers of some sets would be from an origin and those of others as they are stored."""
    lacking = [one.name for one in pool.sets if one.label(task.origin) is None]
    if lacking and len(lacking) < len(pool.sets):
        having = next(one.name for one in pool.sets if one.name not in lacking)
        what = f"task {task.name}: no origin {' or '.join(task.origin)}, which set {having} has"
        mend = "import it with this label, leave it out with sets, or set origin to [] in the task"
        raise UserError(what, where=f"set {lacking[0]}", mend=mend)


def _from_origin(task: Task, one: PooledSet, columns: NDArray[np.float64]) -> NDArray[np.float32]:
    found = one.label(task.origin)
    if found is None:
        return columns.astype(np.float32)
    name, origin = found
    if origin.ndim != 2 or origin.shape[1] < columns.shape[1] or origin.dtype.kind not in "fiu":
        what = f"task {task.name}: the origin has shape {origin.shape}, not {columns.shape[1]} numbers a sample"
        raise UserError(what, where=f"set {one.name}, label {name}", mend="name another origin in the task, or none")
    relative: NDArray[np.float32] = (columns - origin[:, : columns.shape[1]]).astype(np.float32)
    return relative


def _of_classes(task: Task, values: NDArray[np.int64], source: str) -> Targets:
    outputs = int(values.max()) + 1 if task.classes is None else task.classes
    if values.min() < 0 or values.max() >= outputs:
        wrong = int(values[(values < 0) | (values >= outputs)][0])
        mend = "correct the label, or set classes in the task"
        raise UserError(f"task {task.name}: class {wrong} is not within 0..{outputs - 1}", where=source, mend=mend)
    return Targets(values, outputs, source)


def _of_numbers(task: Task, parts: list[NDArray[Any]], source: str) -> Targets:
    widths = sorted({part.shape[1] for part in parts})
    if len(widths) > 1:
        what = f"task {task.name}: {widths[0]} numbers in one set, {widths[1]} in another"
        raise UserError(what, where="label", mend="set columns in the task")
    return Targets(np.concatenate(parts), widths[0], source)


def _beams(task: Task, pool: Pool) -> Targets:
    sizes: Mapping[str, int] = {one.name: _beam_count(task, one) for one in pool.sets}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        mend = "leave sets out, or set codebook to a number that every array resolves"
        raise UserError(f"task {task.name}: the codebooks differ ({listed})", where="sets", mend=mend)
    parts = []
    for one in pool.sets:
        book = dft_codebook(one.spec.rows, one.spec.cols, sizes[one.name], f"task {task.name}, set {one.name}")
        for start in range(0, one.count, READ_AT_ONCE):
            piece = np.arange(start, min(start + READ_AT_ONCE, one.count))
            parts.append(best_beams(pool.read(one, piece), book))
    beams = next(iter(sizes.values()))
    return Targets(np.concatenate(parts), beams, f"best of {beams} DFT beams, computed")


def _beam_count(task: Task, one: PooledSet) -> int:
    antennas = one.spec.rows * one.spec.cols
    return antennas if task.codebook == "antennas" or task.codebook is None else task.codebook
