"""Training states on disk: complete or absent, damaged ones passed over loudly, loaded by any world size."""

import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from channels.errors import UserError
from channels.files import parse_json, sync_folder, write_atomically, write_json
from orchestrator.checkpoint.fragments import TrainingState
from orchestrator.checkpoint.state_files import StateReader
from orchestrator.run.installed import installed_versions

SCHEMA = 3
INFO = "checkpoint.json"
CHECKSUM = "sha256"
"""Key in it of the checksum over everything else in it."""
DAMAGED = "damaged-"
"""Prefix of the folders of states that a start passed over, which no longer count as states."""
LATEST = "latest"
MARK = ".written"
"""Suffix of a rank's note, beside its file, that it wrote it; gone once the state is complete."""
VERSIONED = ("torch", "deepspeed", "ray", "numpy", "safetensors", "wavetrain")


@dataclass(frozen=True, slots=True)
class CheckpointInfo:
    """``checkpoint.json``: what a state belongs to and what it consists of.

    There is no random generator to save: noise, masks, order and dropout are drawn from the seed and from what they are
    for, so ``seed`` and ``step`` say where every stream of random numbers is.
    """

    schema: int
    step: int
    """Optimizer steps done."""
    optimizer_step: int
    """The optimizer's own count."""
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
    return installed_versions(VERSIONED)


def folder_name(step: int) -> str:
    """Folder of the state after ``step`` steps; names sort by step."""
    return f"step-{step:09d}"


def unfinished_folder(root: Path, step: int) -> Path:
    """Where the ranks write a state that is not complete yet."""
    return root / f".{folder_name(step)}.tmp"


def write_mark(file: Path, size: int, digest: str) -> None:
    """Note beside a rank's file that it is on the disk."""
    write_json(file.with_name(file.name + MARK), [size, digest])


def commit(root: Path, info: CheckpointInfo, keep: int, spared: Collection[int] = ()) -> Path:
    """Turn the files that all ranks have written into a complete state; ``latest`` moves, old ones go."""
    temporary, final = unfinished_folder(root, info.step), root / folder_name(info.step)
    marks = sorted(temporary.glob(f"*{MARK}"))
    assert len(marks) == info.world_size, f"{len(marks)} files of {info.world_size} ranks in {temporary}"
    files = {mark.name.removesuffix(MARK): tuple(json.loads(mark.read_text())) for mark in marks}
    for mark in marks:
        mark.unlink()
    write_info(temporary, replace(info, files=files))
    if final.exists():
        shutil.rmtree(final)
    temporary.replace(final)
    sync_folder(root)
    write_atomically(root / LATEST, final.name + "\n")
    prune(root, keep, spared)
    return final


def write_info(folder: Path, info: CheckpointInfo) -> None:
    """Write ``checkpoint.json``, checksum included."""
    document = asdict(info)
    write_json(folder / INFO, document | {CHECKSUM: _checksum(document)})


def _checksum(document: Mapping[str, Any]) -> str:
    """Of a document as JSON text in the order of its keys, which a file keeps."""
    return hashlib.sha256(json.dumps(document, separators=(",", ":")).encode()).hexdigest()


def prune(root: Path, keep: int, spared: Collection[int] = ()) -> None:
    """Remove all but the newest states and those after the steps ``spared``."""
    names = set(map(folder_name, spared))
    for path in sorted(root.glob("step-*"))[:-keep]:
        if path.name not in names:
            shutil.rmtree(path)


def set_aside_newer(root: Path, used: Path | None) -> None:
    """Rename the states newer than the one a start uses (all, where it uses none).

    They are damaged; left as they are, they would count as the newest states to keep, and good ones would go for them.
    """
    for path in sorted(root.glob("step-*")):
        if used is None or path.name > used.name:
            aside = path.with_name(DAMAGED + path.name)
            shutil.rmtree(aside, ignore_errors=True)
            path.replace(aside)


def remove_unfinished(root: Path) -> None:
    """Remove what attempts left that ended while writing."""
    for path in root.glob(".step-*.tmp"):
        shutil.rmtree(path)


def file_digest(path: Path) -> str:
    """sha256 of a file, read in parts."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def newest_complete(root: Path, warn: Callable[[str], None]) -> tuple[Path, CheckpointInfo] | None:
    """The newest undamaged state; each damaged one on the way is reported through ``warn``.

    Raises:
        UserError: a state on the way is whole, but of another version of Wavetrain.
    """
    for path in sorted(root.glob("step-*"), reverse=True):
        damage = find_damage(path)
        if damage is None:
            return path, read_info(path)
        warn(f"checkpoint {path.name} is damaged ({damage}); trying the one before")
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a saved state, or None.

    Raises:
        UserError: it is whole, but of another version of Wavetrain.
    """
    try:
        info = read_info(path)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        return f"{INFO}: {' '.join(str(error).split())[:200]}"
    if path.name != folder_name(info.step):
        return f"{INFO} is of step {info.step}"
    try:
        return _find_damage_of_files(path, info)
    except OSError as error:
        return f"it cannot be read: {error}"


def _find_damage_of_files(path: Path, info: CheckpointInfo) -> str | None:
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
        OSError, ValueError: it cannot be read, or is not what was written.
        UserError: another version of Wavetrain wrote it.
    """
    content = parse_json((path / INFO).read_bytes())
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    schema, checksum = content.get("schema"), content.pop(CHECKSUM, None)
    # Schemas up to 2 had no checksum; from then on it shows whether the number is the one that was written.
    if checksum is not None or schema == SCHEMA:
        _check(content, checksum)
    if schema == SCHEMA:
        return TypeAdapter(CheckpointInfo).validate_python(content)
    if type(schema) is not int:
        raise ValueError(f"schema {schema!r}")
    mend = "go on with the version that wrote it, or choose another run name"
    raise UserError(f"the checkpoint has schema {schema}, this version reads {SCHEMA}", where=str(path), mend=mend)


def _check(document: Mapping[str, Any], checksum: object) -> None:
    try:
        found = _checksum(document)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if checksum != found:
        raise ValueError("it has another checksum than was written")


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
