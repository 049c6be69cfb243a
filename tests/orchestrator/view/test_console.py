"""Names of files, sets and runs are printed letter by letter, whatever they look like to rich."""

import ast
import io
from pathlib import Path

import numpy as np
import pytest
from rich.table import Table

from channels.importers.options import ImportOptions
from channels.importers.spec_file import GivenParameters
from channels.importers.survey import survey
from channels.importers.write import import_sets
from jobs.cli.channels import show
from jobs.cli.survey_table import print_survey
from orchestrator.run.progress import RunProgress
from orchestrator.view.console import plain_console
from orchestrator.view.panel import make_panel
from tests.channels.importers.layouts import draw, quiet

REPOSITORY = Path(__file__).parents[3]
ODD = ("a[/b]", "a[red]", ":smile:")


@pytest.mark.parametrize("word", ODD)
def test_words_stand_as_they_are_in_lines_cells_and_titles(word: str):
    console = plain_console(120, file=io.StringIO())
    table = Table(word, title=f"title {word}")
    table.add_row(f"cell {word}")
    console.print(table, f"line {word}", make_panel(RunProgress(), f"panel {word}", 0.0))
    for place in ("title", "cell", "line", "panel"):
        assert f"{place} {word}" in console.file.getvalue()


def test_an_import_and_its_store_show_odd_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    source, store = tmp_path / "from[b]", tmp_path / "to[red]"
    source.mkdir()
    for letter in "ab":
        np.save(source / f"munich[{letter}].npy", draw(6, 4, 8, 2))
    found = survey(source, ImportOptions(given=GivenParameters("--spec", {"scenario": "[/b]"})))
    console = plain_console(200, file=io.StringIO())
    print_survey(found, console)
    import_sets(found, store, ImportOptions(), quiet)
    show(store)
    for shown in (console.file.getvalue(), capsys.readouterr().out):
        assert all(word in shown for word in ("munich[a].npy", "munich[b].npy"))
    assert "to[red]: 2 sets" in shown and "[/b]" in shown


def test_every_command_prints_on_the_plain_console():
    """One that made a console of its own would read the names of runs and sets as markup."""
    made = [
        str(file.relative_to(REPOSITORY))
        for room in ("jobs", "orchestrator", "channels", "models", "samplers")
        for file in (REPOSITORY / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Console"
    ]
    assert set(made) == {"orchestrator/view/console.py"}
