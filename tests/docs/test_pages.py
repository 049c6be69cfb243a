"""What the documentation says exists: links, commands and options, scripts, tests that run its blocks."""

import re
import shlex
from pathlib import Path

import pytest
from pydantic import BaseModel

from jobs.cli.command_line import CommandLine, load_command
from orchestrator.spec.job import JobSpec
from tests.docs.pages import PAGES, ROOT, blocks, commands, links

SHELL_NOTE = re.compile(r"run by (?P<path>[\w./-]+)(?:::(?P<test>\w+))?|shown only: .+")


def is_placeholder(word: str) -> bool:
    """Words in capitals stand for what the reader puts there."""
    return bool(re.fullmatch(r"[A-Z][A-Z0-9_]*(/[A-Z0-9_]+)*|\.\.\.", word))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for text in commands(page):
        command, rest = CommandLine(), [word for word in shlex.split(text)[1:] if not is_placeholder(word)]
        while rest and rest[0] != "--help" and (children := getattr(command, "commands", None)):
            assert rest[0] in children, text
            command = load_command(rest[0]) if isinstance(command, CommandLine) else children[rest[0]]
            rest = rest[1:]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known | {"--help"}, text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_exist(page: Path) -> None:
    for name, options in re.findall(r"python (benchmarks/\w+\.py)([^\n`#|]*)", page.read_text()):
        source = (ROOT / name).read_text()
        for option in re.findall(r"--[\w-]+", options):
            assert f'"{option}"' in source, f"{page.name}: {name} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_that_are_not_run_here_say_where(page: Path) -> None:
    for block in blocks(page):
        if block.language != "sh" or not block.note:
            continue
        match = SHELL_NOTE.fullmatch(block.note)
        assert match, f"{page.name}: <!-- {block.note} -->"
        if match["path"]:
            source = (ROOT / match["path"]).read_text()
            assert not match["test"] or f"def {match['test']}(" in source, block.note


def test_every_page_is_linked_from_the_index() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(links(ROOT / "docs" / "README.md"))


def fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of the leaves of a specification."""
    names = []
    for name, field in model.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        names += fields(field.annotation, f"{prefix}{name}.") if nested else [f"{prefix}{name}"]
    return names


def test_every_field_of_a_job_is_documented() -> None:
    text = (ROOT / "docs" / "training.md").read_text()
    assert [name for name in fields(JobSpec) if f"`{name}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_stand_in_shell_blocks(page: Path) -> None:
    """So that they are run, or say where; pages outside of docs are run by nobody and must always say."""
    for block in blocks(page):
        if re.search(r"^(\.venv/bin/)?wavetrain ", block.body, re.M):
            assert block.language == "sh", f"{page.name}:\n{block.body}"
            assert block.note or page.parent.name == "docs", f"{page.name}:\n{block.body}"
