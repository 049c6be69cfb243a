"""A fresh sqlite database of MLflow, copied from one that is made once for a version.

MLflow builds one by all its migrations since the first version: seconds, most of them waits for the disk. It also takes
no lock, so that two that open a new file at the same time spoil it; a whole copy appears at once.
"""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

SQLITE = "sqlite:///"


def make_database(uri: str) -> None:
    """Put an empty database where an address names a sqlite file that is not there; otherwise nothing.

    Where the copies' original cannot be kept, MLflow builds the database itself.
    """
    path = Path(uri.removeprefix(SQLITE))
    if not uri.startswith(SQLITE) or path.exists() or not path.parent.is_dir():
        return
    try:
        original = _original()
    except (OSError, RuntimeError):
        return
    _publish(original, path)


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
    """Copy a file so that it appears whole, unless another one was quicker."""
    new = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with source.open("rb") as read, new.open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())
        try:
            path.hardlink_to(new)
        except FileExistsError:
            pass
        except OSError:
            # A file system without links.
            if not path.exists():
                new.replace(path)
    finally:
        new.unlink(missing_ok=True)
