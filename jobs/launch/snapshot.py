"""A copy of the code that a submitted job runs, named by its content."""

import hashlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from channels.errors import UserError

ROOMS = ("channels", "samplers", "models", "orchestrator", "jobs")
MOST_BYTES = 64 * 2**20
"""Of a copy; the rooms have two."""
SOURCE = Path(__file__).resolve().parents[2]


def code_files(source: Path = SOURCE) -> list[Path]:
    """Files of the rooms, relative to ``source``: what git knows or would add, without git all but caches.

    Raises:
        UserError: they are so large that something else than code lies among them.
    """
    command = ["git", "-C", str(source), "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *ROOMS]
    try:
        listed = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.SubprocessError):
        listed = []
    found = [Path(name) for name in listed if name and (source / name).is_file()]
    if not found:
        everything = (path for room in ROOMS for path in (source / room).rglob("*"))
        found = [path.relative_to(source) for path in everything if path.is_file() and "__pycache__" not in path.parts]
    _check_size(source, found)
    return sorted(found)


def _check_size(source: Path, found: Sequence[Path]) -> None:
    sizes: Counter[Path] = Counter()
    for name in found:
        sizes[Path(*name.parent.parts[:2])] += (source / name).stat().st_size
    if sizes.total() > MOST_BYTES:
        (largest, size), whole = sizes.most_common(1)[0], sizes.total() / 2**20
        raise UserError(
            f"the code to copy has {whole:,.0f} MiB, {size / 2**20:,.0f} of them in {largest}",
            where=str(source / largest),
            mend=f"move data elsewhere, or name it in .gitignore; {MOST_BYTES // 2**20} MiB is the limit",
        )


def content_hash(source: Path = SOURCE) -> str:
    """sha256 over names and contents."""
    digest = hashlib.sha256()
    for name in code_files(source):
        content = (source / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def code_folder(launch: Path, source: Path = SOURCE) -> Path:
    """Where the snapshot of ``source`` lies, or will lie."""
    return launch / f"code-{content_hash(source)[:12]}"


def take_snapshot(launch: Path, source: Path = SOURCE) -> Path:
    """Copy the code unless the same content is there already; the folder to put on ``PYTHONPATH``."""
    target = code_folder(launch, source)
    if target.exists():
        return target
    temporary = launch / f".{target.name}.{os.getpid()}.tmp"
    try:
        for name in code_files(source):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, temporary / name)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target
