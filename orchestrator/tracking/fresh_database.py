"""A fresh sqlite database of MLflow, copied from one that is made once for a version.

MLflow builds one by all its migrations since the first version: seconds, most of them waits for the disk.
"""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

SQLITE = "sqlite:///"


def copy_fresh(path: Path) -> bool:
    """Write an empty database to a path; False, and nothing written, where the copies' original cannot be kept.

    Raises:
        OSError: the path cannot be written.
    """
    try:
        original = _original()
    except (OSError, RuntimeError):
        return False
    _copy(original, path)
    return True


def _original() -> Path:
    """Made at the first call on a machine."""
    import mlflow

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wavetrain"
    path = cache / f"mlflow-{mlflow.__version__}.db"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix="wavetrain-") as folder:
            built = Path(folder) / path.name
            _build(built)
            _publish(built, path)
    return path


def _build(path: Path) -> None:
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables

    engine = sqlalchemy.create_engine(f"{SQLITE}{path}")
    _initialize_tables(engine)
    engine.dispose()


def _publish(source: Path, path: Path) -> None:
    """Copy a file so that it appears whole, whoever else does the same now."""
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _copy(source, new)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _copy(source: Path, path: Path) -> None:
    with source.open("rb") as read, path.open("wb") as write:
        shutil.copyfileobj(read, write)
        write.flush()
        os.fsync(write.fileno())
