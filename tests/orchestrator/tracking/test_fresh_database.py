"""A fresh database of MLflow is a copy of one that MLflow has made."""

import re
import sqlite3
from pathlib import Path

import pytest
from mlflow import MlflowClient

from orchestrator.tracking import fresh_database
from orchestrator.tracking.fresh_database import copy_fresh


def tables(path: Path) -> list[list[str]]:
    """The words of every definition, sorted: MLflow's migrations put the conditions of a table in any order."""
    with sqlite3.connect(path) as database:
        found = database.execute("select sql from sqlite_master where sql is not null")
        return sorted(sorted(re.findall(r"\w+", sql)) for (sql,) in found)


def test_a_copy_is_what_mlflow_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert copy_fresh(tmp_path / "first.db")
    monkeypatch.setattr(fresh_database, "_build", lambda path: pytest.fail("built twice"))
    assert copy_fresh(tmp_path / "copy.db")
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/copy.db")
    client.create_run(client.create_experiment("one"))
    MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/own.db").search_experiments()
    assert tables(tmp_path / "copy.db") == tables(tmp_path / "own.db") == tables(tmp_path / "first.db")
    assert [experiment.name for experiment in client.search_experiments()] == ["one", "Default"]


def test_without_a_place_for_the_original_mlflow_builds_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert not copy_fresh(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
