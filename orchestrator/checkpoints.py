"""Training states on disk: complete or absent, newest last, damaged ones passed over loudly."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from channels.errors import UserError
from channels.files import sync_file, sync_folder, write_atomically, write_json
from orchestrator.engine import TrainingEngine

SCHEMA = 1
TAG = "state"


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """``checkpoint.json``: what a state belongs to and what it consists of."""

    schema: int
    step: int
    """Optimizer steps done."""
    world_size: int
    zero_stage: int
    fingerprint: str
    """Of the job's training identity."""
    sampler: dict[str, Any]
    """State of the scheduled batches (cursor and fingerprints)."""
    train_seconds: float
    epoch_totals: tuple[float, int, int]
    """Of the epoch under way: seconds, computed tokens, valid tokens."""
    files: dict[str, tuple[int, str]]
    """Relative name -> bytes, sha256."""


def folder_name(step: int) -> str:
    """Folder of the state after ``step`` steps; names sort by step."""
    return f"step-{step:09d}"


def save(engine: TrainingEngine, root: Path, info: CheckpointInfo, keep: int) -> Path:
    """Save the state of all ranks (collective); ``latest`` moves only when every rank's files are complete."""
    final = root / folder_name(info.step)
    temporary = root / f".{folder_name(info.step)}.tmp"
    if engine.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    dist.barrier()
    engine.deepspeed.save_checkpoint(str(temporary), tag=TAG, client_state={"step": info.step}, save_latest=False)
    dist.barrier()
    if engine.rank == 0:
        _commit(temporary, final, info)
        _prune(root, keep)
    dist.barrier()
    return final


def _commit(temporary: Path, final: Path, info: CheckpointInfo) -> None:
    files = sorted(path for path in temporary.rglob("*") if path.is_file())
    for path in files:
        sync_file(path)
    listed = {str(path.relative_to(temporary)): (path.stat().st_size, file_digest(path)) for path in files}
    write_json(temporary / "checkpoint.json", asdict(info) | {"files": listed})
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(final.parent)
    write_atomically(final.parent / "latest", final.name + "\n")


def _prune(root: Path, keep: int) -> None:
    for path in sorted(root.glob("step-*"))[:-keep]:
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
    except (OSError, ValueError, TypeError) as error:
        return f"checkpoint.json: {error}"
    for name, (size, digest) in info.files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
        if file_digest(file) != digest:
            return f"{name} has another checksum"
    return None


def read_info(path: Path) -> CheckpointInfo:
    """Parse ``checkpoint.json``."""
    content = json.loads((path / "checkpoint.json").read_text())
    info = CheckpointInfo(**content)
    if info.schema != SCHEMA:
        raise ValueError(f"schema {info.schema} instead of {SCHEMA}")
    return info


def load(engine: TrainingEngine, path: Path, info: CheckpointInfo, fingerprint: str, zero_stage: int) -> None:
    """Put a saved state into the engine (collective).

    Raises:
        UserError: the state belongs to another job, world size or ZeRO stage.
    """
    mend = "resume with what it was saved with, or choose another run name"
    if info.fingerprint != fingerprint:
        raise UserError("the checkpoint belongs to another job", where=str(path), mend=mend)
    if info.world_size != engine.world:
        raise UserError(f"saved by {info.world_size} ranks, now there are {engine.world}", where=str(path), mend=mend)
    if info.zero_stage != zero_stage:
        raise UserError(f"saved with ZeRO stage {info.zero_stage}, now it is {zero_stage}", where=str(path), mend=mend)
    loaded, _ = engine.deepspeed.load_checkpoint(str(path), tag=TAG)
    if loaded is None:
        raise UserError("DeepSpeed finds no state in it", where=str(path), mend="remove the folder")
