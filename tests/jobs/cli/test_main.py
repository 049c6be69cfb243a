"""The command line as a whole: what it lists, what it imports, how soon it answers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.files import write_json
from jobs.cli.command_line import COMMANDS, load_command
from jobs.launch.folder import LaunchFolder
from orchestrator.run.folder import RunDirectory
from tests.jobs.cli.conftest import Command
from tests.jobs.launches import job_of

ENGINES = {"torch", "ray", "deepspeed", "mlflow", "sionna", "matplotlib", "submitit", "h5py", "scipy"}
MOST_SECONDS = 1.0
"""Of a processor, for `wavetrain --help`; it takes 0.15 s on the machine where this was written."""
COMMAND_LINES = """
import contextlib, io, json, sys, time
from jobs.cli.main import main
out = io.StringIO()
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["wavetrain", *arguments]
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main()
print(json.dumps([out.getvalue(), list(sys.modules), time.process_time()]))
"""


def run_python(folder: Path, program: str, *arguments: str) -> str:
    """Output of a program in a fresh process."""
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PATH": "/nowhere", "COLUMNS": "200"}
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_all(folder: Path, *lines: list[str]) -> tuple[str, set[str], float]:
    """Output, imported modules and seconds of a processor, of command lines one after the other in a fresh process."""
    text, modules, seconds = json.loads(run_python(folder, COMMAND_LINES, json.dumps(lines)))
    return text, set(modules), seconds


def test_help_answers_at_once_and_names_every_command(tmp_path: Path) -> None:
    text, modules, seconds = run_all(tmp_path, ["--help"])
    assert not modules & (ENGINES | {"numpy", "pydantic"})
    assert seconds < MOST_SECONDS
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"\b{name} +{re.escape(line)}", text), name


def test_help_of_a_command_imports_no_engine(tmp_path: Path) -> None:
    text, modules, _ = run_all(tmp_path, *([name, "--help"] for name in COMMANDS))
    assert [f"Usage: wavetrain {name} " in text for name in COMMANDS] == [True] * len(COMMANDS)
    assert not modules & ENGINES


def test_every_command_has_a_description_of_its_own() -> None:
    assert all(load_command(name).help for name in COMMANDS)


def leaves(command: Any) -> list[Any]:
    children = getattr(command, "commands", {}).values()
    return [leaf for child in children for leaf in leaves(child)] or [command]


def test_no_help_is_taken_for_markup() -> None:
    """rich leaves out what stands in brackets."""
    options = [option for name in COMMANDS for leaf in leaves(load_command(name)) for option in leaf.params]
    assert len(options) > 50
    assert [option.name for option in options if "[" in (getattr(option, "help", None) or "")] == []


@pytest.mark.parametrize("line", [["status"], ["status", "demo", "--json"], ["logs", "demo"], ["cancel", "demo"]])
def test_looking_after_runs_imports_no_engine(line: list[str], tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs" / "demo")
    directory.launch.mkdir(parents=True)
    write_json(directory.spec, job_of().model_dump(mode="json"))
    write_json(LaunchFolder(directory).submission, {"launcher": "slurm", "job_id": "7", "logs": str(directory.path)})
    _, modules, _ = run_all(tmp_path, line)
    assert "jobs.launch.run_status" in modules and not modules & ENGINES


def test_a_job_spec_is_read_without_an_engine(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_of().model_dump(mode="json")))
    program = (
        "import json, pathlib, sys; from orchestrator.spec.job import load_job; load_job(pathlib.Path('job.yaml'))"
    )
    assert not set(json.loads(run_python(tmp_path, f"{program}; print(json.dumps(list(sys.modules)))"))) & ENGINES


@pytest.mark.parametrize(
    "arguments",
    [("channels", "import", "a.npy", "--store", ""), ("plan", "--store= "), ("channels", "show", "--store", " ")],
)
def test_an_empty_argument_is_not_the_working_directory(wavetrain: Command, arguments: tuple[str, ...]) -> None:
    assert wavetrain(*arguments) == (
        2,
        "",
        "wavetrain: --store: an argument is empty; give a value; . is the working directory\n",
    )
