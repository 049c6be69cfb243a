"""Every figure is drawn without touching what matplotlib keeps for the whole process."""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest

from jobs.studies.figures import draw_study
from jobs.studies.tables import StudyTable
from orchestrator.evaluation.score import Score
from orchestrator.report.figure import to_png, to_svg
from orchestrator.report.heat import HeatTable, draw_heat
from orchestrator.report.plan_figures import draw_padding_by_buckets, draw_plan
from orchestrator.report.read_run import read_run
from orchestrator.report.results import write_results
from orchestrator.report.run_figures import draw_all
from orchestrator.run.folder import RunDirectory
from samplers.catalogue import Catalogue, Source
from samplers.plan import make_plan

SCORES = [Score("time", name, predictor, "noisy", 0.5, 3) for name in ("D1", "D2") for predictor in ("model", "zero")]


def draw_zeroshot(folder: Path, run: RunDirectory) -> bytes:
    return write_results(SCORES, folder)[-1].read_bytes()


def draw_a_plan(folder: Path, run: RunDirectory) -> bytes:
    catalogue = Catalogue([Source("a", 4, 64), Source("b", 8, 64)])
    draw_plan(make_plan(catalogue, buckets=2, batch=8), catalogue, folder / "plan.png")
    return (folder / "plan.png").read_bytes()


def draw_curves(folder: Path, run: RunDirectory) -> bytes:
    draw_padding_by_buckets({"a": {"optimal": [0.3, 0.2]}}, (1, 2), folder / "padding.png", {"a": {2: 0.25}})
    return (folder / "padding.png").read_bytes()


def draw_a_run(folder: Path, run: RunDirectory) -> bytes:
    figures = draw_all([read_run(run, "RUNNING")])
    assert all(to_svg(figure).startswith("<svg") for figure in figures.values())
    return to_png(figures["curves"])


def draw_errors(folder: Path, run: RunDirectory) -> bytes:
    return to_png(draw_heat(HeatTable("time", ("D1",), ("a", "b"), 1, ((-3.0, None),)), -10.0))


def draw_a_study(folder: Path, run: RunDirectory) -> bytes:
    rows = (("a, b", 40.0, 45.0), ("a, c", None, 30.0))
    table = StudyTable("Gradients", ("pairs of sets", "negative cosine %", "published %"), rows, (), {})
    return to_png(draw_study("fig1c", table))


def settings() -> dict[str, object]:
    """All of them; a look at the backend through RcParams itself would choose one."""
    return {name: dict.__getitem__(matplotlib.rcParams, name) for name in matplotlib.rcParams}


@pytest.mark.parametrize(
    "draw", [draw_zeroshot, draw_a_plan, draw_curves, draw_a_run, draw_errors, draw_a_study],
    ids=lambda draw: draw.__name__,
)  # fmt: skip
def test_drawing_leaves_the_backend_and_the_settings_of_the_process(
    draw: Callable[[Path, RunDirectory], bytes],
    tmp_path: Path,
    broken_off: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a backend is chosen for the whole process")

    monkeypatch.setattr(matplotlib, "use", refuse)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with matplotlib.rc_context({"lines.linewidth": 7.5, "font.size": 5.0}):
        before = settings()
        assert draw(tmp_path, broken_off).startswith(b"\x89PNG")
        assert settings() == before
