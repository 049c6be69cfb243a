"""A local MLflow database: made once, by one process at a time, and looked at before anything relies on it."""

import contextlib
import os
import re
import sqlite3
import time
from pathlib import Path

from channels.errors import UserError
from orchestrator.run.file_lock import try_lock
from orchestrator.tracking.fresh_database import SQLITE, copy_fresh

LOCK_POLL_S = 0.1
MAKE_S = 180.0
"""Most seconds that another process may take to make the database; two do on a quiet machine."""
_PASSWORD = re.compile(r"(://[^/@:\s]*):[^/\s]+@")
_NEW_ONE = "move the file away, then a new database is made; the runs' folders keep everything (wavetrain sync RUN)"


def database_file(uri: str) -> Path | None:
    """The file of a sqlite address; None for any other address, and for one in memory."""
    path = uri.removeprefix(SQLITE).partition("?")[0]
    return Path(path) if uri.startswith(SQLITE) and path and not path.startswith(":") else None


def check_database(uri: str) -> bool:
    """Look at a sqlite database without MLflow, which would try again for minutes; whether it is there, with tables.

    Raises:
        UserError: the file is no database, was left half made, or cannot be opened.
    """
    path = database_file(uri)
    if path is None:
        return True
    if not path.exists() or path.stat().st_size == 0:
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            version = connection.execute("SELECT * FROM alembic_version").fetchall() if tables else []
    except sqlite3.Error as error:
        raise refused(uri, error) from None
    if tables and (not version or "experiments" not in tables):
        raise UserError("the tracking database was left half made", where=str(path), mend=_NEW_ONE)
    return bool(tables)


def ensure_database(uri: str) -> None:
    """Make a sqlite database that is not there yet; of several processes one does, and the others wait for it.

    The tables are made under a temporary name, so a process that is killed leaves no half-made database.

    Raises:
        UserError: it cannot be made, or is none.
    """
    path = database_file(uri)
    if path is None or check_database(uri):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(f".{path.name}.lock").open("a") as lock:
            deadline = time.monotonic() + MAKE_S
            while not try_lock(lock):
                if time.monotonic() > deadline:
                    mend = "look for a wavetrain that hangs, and end it"
                    raise UserError("another process makes the tracking database", where=str(path), mend=mend)
                time.sleep(LOCK_POLL_S)
            if not check_database(uri):
                _make(path)
    except OSError as error:
        raise refused(uri, error) from None


def _make(path: Path) -> None:
    from mlflow import MlflowClient

    for left in path.parent.glob(f".{path.name}.*.tmp*"):
        left.unlink(missing_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if not copy_fresh(unfinished):
            MlflowClient(tracking_uri=f"{SQLITE}{unfinished.absolute()}").search_experiments(max_results=1)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def without_password(text: str) -> str:
    """A text that may quote addresses, without their passwords."""
    return _PASSWORD.sub(r"\1:***@", text)


def refused(uri: str, error: Exception) -> UserError:
    """What MLflow or a database says, as one line with its remedy; a password in the address is not repeated."""
    lines = without_password(str(error)).splitlines() or [type(error).__name__]
    reason, whole, uri = lines[0][:300], str(error).lower(), without_password(uri)
    where = str(database_file(uri) or "tracking.uri")
    if "out-of-date database schema" in whole:
        what = f"the tracking database is of another version of MLflow ({reason.split('. ')[0]})"
        mend = f"if an older one made it: copy it, then: mlflow db upgrade {uri}; else install the newer one"
        return UserError(what, where=where, mend=mend)
    if isinstance(error, ImportError):
        mend = "install the package that MLflow reads this kind of database with"
        return UserError(f"MLflow cannot open {uri!r} ({reason})", where="tracking.uri", mend=mend)
    if database_file(uri) is None:
        mend = "start the server, or set tracking.uri to null for a local database"
        return UserError(f"MLflow at {uri!r} refuses ({reason})", where="tracking.uri", mend=mend)
    if "locked" in whole:
        mend = "wait for the process that holds it, or set tracking.uri to a server"
        return UserError(f"the tracking database is busy ({reason})", where=where, mend=mend)
    if any(word in whole for word in ("not a database", "malformed", "no such table", "already exists")):
        return UserError(f"the tracking database is damaged ({reason})", where=where, mend=_NEW_ONE)
    mend = "give room and the right to write there, or set tracking.uri to another database"
    return UserError(f"the tracking database cannot be opened ({reason})", where=where, mend=mend)
