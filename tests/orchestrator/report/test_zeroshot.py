"""How errors stand beside the published ones."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.evaluation.score import AVERAGE, Score
from orchestrator.report.heat import darkness
from orchestrator.report.published import published
from orchestrator.report.read_run import read_run
from orchestrator.report.zeroshot import published_averages, zeroshot_tables
from orchestrator.report.zeroshot_section import direction_section
from orchestrator.run.folder import RunDirectory
from tests.orchestrator.report.recorded import scored


def test_published_methods_stand_beside_the_published_sets_only(broken_off: RunDirectory) -> None:
    record = replace(read_run(broken_off, "FINISHED"), on_published_sets=True)
    [first, *_] = zeroshot_tables([scored(record, "mine", 0.1)])
    column = first.columns.index("HeterCSI (published)")
    assert first.ours == 1 and first.rows == ("D1", "D2", AVERAGE)
    assert [row[column] for row in first.values] == [-19.26, -15.91, pytest.approx(-17.27, abs=0.01)]
    [other, *_] = zeroshot_tables([scored(record, "mine", 0.1, ("Z1",))])
    assert other.columns == ("mine",)
    small = replace(record, on_published_sets=False)
    [same_names, *_] = zeroshot_tables([scored(small, "mine", 0.1)])
    assert same_names.columns == ("mine",), "sets of the same names that were made here, or a few samples of each"
    table = published_averages(["time", "snapshot"])
    assert (
        table
        and table.columns == ("time",)
        and ("WiFo", -4.60) in zip(table.rows, [row[0] for row in table.values], strict=True)
    )
    assert published_averages(["snapshot"]) is None


def test_directions_stand_in_a_table_where_there_are_any(broken_off: RunDirectory) -> None:
    record = scored(read_run(broken_off, "FINISHED"), "mine", 0.1)
    assert direction_section([record]) == []
    directed = [Score("time", name, "prony", "clean", 0.1, 5, sgcs, 0.9) for name, sgcs in (("D1", 0.7), ("D2", 0.8))]
    page = "".join(direction_section([replace(record, scores=(*record.scores, *directed))]))
    assert all(cell in page for cell in ("mine", "Prony", "0.750", "90.0 %")) and "repeat last" not in page


def test_published_averages_are_those_of_their_rows() -> None:
    for task, methods in published("hetercsi")["table2"].items():
        for method, figures in methods.items():
            linear = np.mean([10 ** (value / 10) for value in figures["rows"]])
            # The paper's average of PAD is 0.2 dB under that of its rows.
            tolerance = 0.25 if method == "PAD" else 0.02
            assert 10 * np.log10(linear) == pytest.approx(figures["average"], abs=tolerance), (task, method)


def test_cells_are_darker_the_less_error_they_have() -> None:
    assert (darkness(2.0, -10.0), darkness(-5.0, -10.0), darkness(-20.0, -10.0)) == (0.0, 0.5, 1.0)
