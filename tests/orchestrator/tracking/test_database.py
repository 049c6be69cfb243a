"""The local tracking database: made once whoever comes first, and refused in one line where it is none."""

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from orchestrator.tracking.database import check_database, ensure_database, refused, without_password
from orchestrator.tracking.mlflow_run import Tracker, check_address, default_uri

SIX = """
import os, sys, traceback
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from orchestrator.tracking.mlflow_run import Tracker, default_uri
runs = Path(sys.argv[1])
def first_run(number):
    os.read(gate, 1)
    tracker = Tracker(default_uri(runs), "study", runs / "mlartifacts", f"run {number}", None, f"key {number}")
    tracker.metrics({"loss": 1.0}, 1, 1.0)
    tracker.end("FINISHED")
gate, opener = os.pipe()
children = []
for number in range(6):
    child = os.fork()
    if child == 0:
        try:
            first_run(number)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    children.append(child)
os.write(opener, b"go" * 3)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_six_first_runs_at_once_make_one_database(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SIX, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*), min(status), max(status) FROM runs").fetchone() == (
            6,
            "FINISHED",
            "FINISHED",
        )
        assert database.execute("SELECT count(*) FROM experiments WHERE name = 'study'").fetchone() == (1,)
    assert {path.name for path in tmp_path.iterdir()} <= {"mlflow.db", ".mlflow.db.lock", "mlartifacts"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database as MLflow makes it."""
    folder = tmp_path_factory.mktemp("made")
    ensure_database(default_uri(folder))
    return (folder / "mlflow.db").read_bytes()


def test_a_killed_maker_leaves_nothing_in_the_way(tmp_path: Path, made: bytes) -> None:
    (tmp_path / ".mlflow.db.77.tmp").write_bytes(made[:5000])
    (tmp_path / ".mlflow.db.77.tmp-journal").write_bytes(b"x")
    ensure_database(default_uri(tmp_path))
    assert check_database(default_uri(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"this is no database" * 100, "not a database.*move the file away"),
        ("CREATE TABLE experiments (name TEXT)", "no such table: alembic_version.*move the file away"),
        ("CREATE TABLE alembic_version (version_num TEXT)", "half made.*move the file away"),
    ],
)
def test_what_is_no_database_is_refused_before_mlflow_tries(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "mlflow.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as database:
            database.execute(content)
    with pytest.raises(UserError, match=words) as caught:
        check_database(default_uri(tmp_path))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["cfd24bdc0731", "ffffffffffff"])
def test_a_database_of_another_mlflow_is_one_line_with_its_remedy(tmp_path: Path, made: bytes, version: str) -> None:
    (tmp_path / "mlflow.db").write_bytes(made)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    words = f"found version {version}.*mlflow db upgrade sqlite:///{tmp_path}"
    with pytest.raises(UserError, match=words) as caught:
        Tracker(default_uri(tmp_path), "study", tmp_path, "run", None)
    assert "\n" not in str(caught.value)


def test_a_password_in_an_address_is_not_repeated() -> None:
    uri = "postgresql://bob:hunter2@db:5432/runs"
    for text in (f"cannot reach {uri}", "out-of-date database schema (found 1)", ""):
        said = str(refused(uri, RuntimeError(text)))
        assert "hunter2" not in said and "bob:***@db" in said
    assert (
        without_password("at mysql://bob:p@ss@db/x or http://h:80/a@b") == "at mysql://bob:***@db/x or http://h:80/a@b"
    )


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mssql+pyodbc://bob:hunter2@db/x", "holds a password"),
        ("nonsense://bob:hunter2@db/x", "holds a password"),
        ("nonsense://db/x", "neither http"),
        ("http://bob:hunter2@[::1", "is no address"),
    ],
)
def test_an_address_is_refused_in_one_line_without_its_password(uri: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        check_address(uri)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    check_address("mssql+pyodbc://bob@db/x")


def test_a_database_whose_driver_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(UserError, match="install the package") as caught:
        Tracker("postgresql+psycopg2://host/runs", "study", tmp_path, "run", None)
    assert "\n" not in str(caught.value)


def test_options_of_an_address_are_no_part_of_the_file(tmp_path: Path) -> None:
    Tracker(f"{default_uri(tmp_path)}?timeout=60", "study", tmp_path, "run", None)
    assert {path.name for path in tmp_path.iterdir()} <= {".mlflow.db.lock", "mlflow.db", "mlartifacts"}


def test_addresses_that_are_no_file_are_nobodys_business() -> None:
    for uri in ("http://127.0.0.1:5000", "postgresql://host/db", "sqlite:///:memory:"):
        assert check_database(uri)
    assert not check_database("sqlite:////nowhere/at/all/mlflow.db")


def test_a_run_whose_creation_was_not_answered_is_found_again(
    tmp_path: Path, made: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    (tmp_path / "mlflow.db").write_bytes(made)
    create = MlflowClient.create_run

    def unanswered(*arguments: Any, **options: Any) -> Any:
        create(*arguments, **options)
        raise MlflowException("API request failed: read timed out")

    def a_tracker(key: str) -> Tracker:
        return Tracker(default_uri(tmp_path), "study", tmp_path, "run", None, key)

    monkeypatch.setattr(MlflowClient, "create_run", unanswered)
    with pytest.raises(UserError, match="timed out"):
        a_tracker("mine")
    monkeypatch.setattr(MlflowClient, "create_run", create)
    tracker, other = a_tracker("mine"), a_tracker("another")
    client = MlflowClient(default_uri(tmp_path))
    found = {run.info.run_id for run in client.search_runs([tracker.experiment_id])}
    assert found == {tracker.run_id, other.run_id} and len(found) == 2
