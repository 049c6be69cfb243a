"""Training states on disk: complete or absent, damaged ones passed over loudly, loaded by any world size."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from channels.errors import UserError
from channels.files import parse_json, sync_folder, write_atomically, write_json
from orchestrator.fragments import TrainingState
from orchestrator.state_files import StateReader

SCHEMA = 2
INFO = "checkpoint.json"
LATEST = "latest"
MARK = ".written"
"""Suffix of a rank's note, beside its file, that it wrote it; gone once the state is complete."""
VERSIONED = ("torch", "deepspeed", "ray", "numpy", "safetensors", "wavetrain")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """``checkpoint.json``: what a state belongs to and what it consists of.

    There is no generator to save: noise, masks, order and dropout are all drawn from (seed, what they are for), so
    ``seed`` and ``step`` hold the state of every stream.
    """

    schema: int
    step: int
    """Optimizer steps done."""
    optimizer_step: int
    """AdamW's own count."""
    seed: int
    world_size: int
    zero_stage: int
    fingerprint: str
    """Of the job's training identity."""
    sampler: dict[str, Any]
    """State of the scheduled batches: cursor and fingerprints of catalogue and plan."""
    train_seconds: float
    epoch_totals: tuple[float, int, int]
    """Of the epoch under way: seconds, computed tokens, valid tokens."""
    mlflow_run_id: str | None
    versions: dict[str, str]
    files: dict[str, tuple[int, str]]
    """Name -> bytes, sha256."""


def versions() -> dict[str, str]:
    """Versions of what computes the numbers."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in VERSIONED}


def folder_name(step: int) -> str:
    """Folder of the state after ``step`` steps; names sort by step."""
    return f"step-{step:09d}"


def unfinished_folder(root: Path, step: int) -> Path:
    """Where the ranks write a state that is not complete yet."""
    return root / f".{folder_name(step)}.tmp"


def write_mark(file: Path, size: int, digest: str) -> None:
    """Note beside a rank's file that it is on the disk."""
    write_json(file.with_name(file.name + MARK), [size, digest])


def commit(root: Path, info: CheckpointInfo, keep: int, spared: int | None = None) -> Path:
    """Turn the files that all ranks have written into a complete state; ``latest`` moves, old ones go."""
    temporary, final = unfinished_folder(root, info.step), root / folder_name(info.step)
    marks = sorted(temporary.glob(f"*{MARK}"))
    assert len(marks) == info.world_size, f"{len(marks)} files of {info.world_size} ranks in {temporary}"
    files = {mark.name.removesuffix(MARK): tuple(json.loads(mark.read_text())) for mark in marks}
    for mark in marks:
        mark.unlink()
    write_json(temporary / INFO, asdict(replace(info, files=files)))
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(root)
    write_atomically(root / LATEST, final.name + "\n")
    prune(root, keep, spared)
    return final


def prune(root: Path, keep: int, spared: int | None = None) -> None:
    """Remove all but the newest states and the one after step ``spared``."""
    for path in sorted(root.glob("step-*"))[:-keep]:
        if spared is None or path.name != folder_name(spared):
            shutil.rmtree(path)


def remove_unfinished(root: Path) -> None:
    """Remove what attempts left that ended while writing."""
    for path in root.glob(".step-*.tmp"):
        shutil.rmtree(path)


def file_digest(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_complete(root: Path, warn: Callable[[str], None]) -> tuple[Path, CheckpointInfo] | None:
    """The newest undamaged state; each damaged one on the way is reported through ``warn``."""
    for path in sorted(root.glob("step-*"), reverse=True):
        damage = find_damage(path)
        if damage is None:
            return path, read_info(path)
        warn(f"checkpoint {path.name} is damaged ({damage}); trying the one before")
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a saved state, or None."""
    try:
        info = read_info(path)
    except (OSError, ValueError) as error:
        return f"{INFO}: {' '.join(str(error).split())[:200]}"
    for name, (size, digest) in info.files.items():
        file = path / name
        if file.parent != path or not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if file_digest(file) != digest:
            return f"{name} has another checksum"
    return None


def read_info(path: Path) -> CheckpointInfo:
    """Parse ``checkpoint.json``.

    Raises:
        OSError, ValueError: it cannot be read, or is not what this version writes.
    """
    content = parse_json((path / INFO).read_bytes())
    found = content.get("schema") if isinstance(content, dict) else None
    if found != SCHEMA:
        raise ValueError(f"schema {found} instead of {SCHEMA}")
    return TypeAdapter(CheckpointInfo).validate_python(content)


def load(state: TrainingState, path: Path, info: CheckpointInfo, fingerprint: str) -> None:
    """Put a saved state into an engine of any world size and ZeRO stage (collective).

    Raises:
        UserError: the state belongs to another job or model.
    """
    mend = "resume with what it was saved with, or choose another run name"
    if info.fingerprint != fingerprint:
        raise UserError("the checkpoint belongs to another job", where=str(path), mend=mend)
    with StateReader([path / name for name in info.files]) as reader:
        if reader.sizes() != state.sizes:
            raise UserError("the checkpoint is of a model with other parameters", where=str(path), mend=mend)
        for fragment in state.held():
            reader.fill(fragment)
    state.set_optimizer_step(info.optimizer_step)
    state.publish()
