"""Studies: which runs there are at a scale, the tables beside the published figures, and the pictures."""

import csv
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from channels.errors import UserError
from channels.files import write_json
from jobs.studies.fig4_table import fig4
from jobs.studies.figures import draw_study
from jobs.studies.spec import Study, StudyName, known_scales, make_study
from jobs.studies.tables import StudyTable, fig1c, table3, to_markdown, to_rows
from orchestrator.evaluation.score import Score
from orchestrator.report.figure import to_png
from orchestrator.report.published import published
from orchestrator.report.record import RunRecord, Steps
from orchestrator.report.rows import to_csv
from orchestrator.run.folder import RunDirectory
from orchestrator.run.goodput import Ledger


def a_study(kind: StudyName, folder: Path, scale: str = "small") -> Study:
    return make_study(kind, f"{kind}-{scale}", known_scales()[scale], folder, seed=1)


def record_of(study: Study, number: int, minutes: float) -> RunRecord:
    """A finished run of the study that took so many minutes an epoch."""
    child = study.children[number]
    nothing = Steps(*(np.zeros(0) for _ in Steps.__slots__))
    return RunRecord(
        name=child.job.name, status="FINISHED", reason=None, job=child.job, plan={}, total_steps=0, steps=nothing,
        epochs=({"time/epoch_min": minutes, "data/epoch_padding_ratio": 0.25},), attempts=(), remarks=(),
        checkpoints=(), stall_s=0.0, ledger=Ledger(),
        scores=tuple(Score(task, "D1", "model", "noisy", 0.1, 4) for task in ("reconstruction", "time", "frequency")),
    )  # fmt: skip


def records_of(study: Study) -> dict[str, RunRecord]:
    return {child.job.name: record_of(study, number, 1.0 + number) for number, child in enumerate(study.children)}


@pytest.mark.parametrize("scale", list(known_scales()))
@pytest.mark.parametrize("kind", ["table3", "fig4"])
def test_every_child_can_be_run(kind: StudyName, scale: str, tmp_path: Path) -> None:
    study = a_study(kind, tmp_path, scale)
    assert len({child.job.name for child in study.children}) == len(study.children)
    for child in study.children:
        assert child.job.data.sets == tuple(row.name for row in study.preset.pretrain[: child.sets])
        assert child.sets == len(child.job.data.sets)
        assert child.job.data.zeroshot_sets == study.scale.zeroshot_sets
        assert child.job.model.options["size"] == study.scale.model
        assert child.job.batching.partitions % child.job.scale.workers == 0


def test_shorter_samples_keep_the_ratios_of_lengths(tmp_path: Path) -> None:
    small, full = a_study("table3", tmp_path), a_study("table3", tmp_path, "medium")
    lengths = [
        [np.prod([-(-edge // 4) for edge in row.shape]) for row in study.preset.pretrain[:16]]
        for study in (small, full)
    ]
    assert [4 * length for length in lengths[0]] == lengths[1]


def test_fig1c_compares_the_sets_of_the_public_code(tmp_path: Path) -> None:
    """The first set beside one of other scales, one with half of the subcarriers and one of the same scale."""
    for scale in known_scales():
        study = a_study("fig1c", tmp_path, scale)
        shapes = {row.name: row.shape for row in study.preset.pretrain}
        assert study.pairs == {
            "different_scale": ("M1", "M2"), "similar_scale": ("M1", "M4"), "same_scale": ("M1", "M3")
        }  # fmt: skip
        assert shapes["M1"] == shapes["M3"] and shapes["M1"][1] == 2 * shapes["M4"][1]
        assert not study.children and study.store.name.startswith("motivation-fig1c")


def test_the_published_scale_has_the_published_positions(tmp_path: Path) -> None:
    assert {child.job.model.options["position"] for child in a_study("fig4", tmp_path, "published").children} == {
        "flat"
    }


def test_table3_plans_the_published_padding(tmp_path: Path) -> None:
    study = a_study("table3", tmp_path)
    table = table3(study, {})
    ours, theirs = table.column("planned padding %"), table.column("published padding %")
    compared = [(mine, paper) for mine, paper in zip(ours, theirs, strict=True) if paper is not None]
    assert len(compared) == 25
    assert all(mine == pytest.approx(paper, abs=0.1) for mine, paper in compared)
    exact = dict(zip(zip(table.column("batching"), table.column("sets"), strict=True), ours, strict=True))
    assert exact["optimal_4", 40] == pytest.approx(7.38, abs=0.01)


def test_table3_compares_times_with_alternating(tmp_path: Path) -> None:
    study = a_study("table3", tmp_path)
    table = table3(study, records_of(study))
    rows = [row for row in to_rows(table) if row["sets"] == 8]
    assert [row["run: relative time"] for row in rows] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert rows[2]["published relative time"] == pytest.approx(2.54 / 2.03)
    assert rows[0]["run: NMSE dB"] == pytest.approx(-10.0)
    assert all(row["run: relative time"] is None for row in to_rows(table) if row["sets"] == 24)


def test_fig4_stands_beside_the_published_curve(tmp_path: Path) -> None:
    study = a_study("fig4", tmp_path)
    rows = to_rows(fig4(study, records_of(study)))
    equal = [row for row in rows if row["method"] == "equal" and row["loss by"] == "token"]
    assert [row["buckets"] for row in equal] == published("hetercsi")["fig4"]["buckets"]
    assert [row["published NMSE dB"] for row in equal] == [-5.158, -7.404, -9.155, -8.553, -8.462]
    assert [row["relative time"] for row in rows] == [float(number) for number in range(1, 21)]
    assert [row["buckets"] for row in rows if row["method"] == "packed"] == [4, 1, 4, 1]
    assert all(row["published NMSE dB"] is None for row in rows if row["method"] != "equal")


def test_fig4_trains_every_method_in_both_weightings(tmp_path: Path) -> None:
    study = a_study("fig4", tmp_path)
    by_token, by_sample = study.children[:10], study.children[10:]
    assert {child.job.train.loss_weighting for child in by_token} == {"token"}
    assert {child.job.train.loss_weighting for child in by_sample} == {"sample"}
    assert [child.job.batching for child in by_token] == [child.job.batching for child in by_sample]
    rows = to_rows(fig4(study, records_of(study)))
    assert all(row["published NMSE dB"] is None for row in rows if row["loss by"] == "sample")


def test_fig4_is_a_mean_over_its_seeds(tmp_path: Path) -> None:
    """A name says the seed where it is not the channels'; times are over one bucket's of the same seed."""
    scale = known_scales()["small"].model_copy(update={"fig4_seeds": (1, 7, 1)})
    study = make_study("fig4", "fig4-small", scale, tmp_path, seed=1)
    alone = a_study("fig4", tmp_path)
    assert study.children[:20] == alone.children and {child.job.seed for child in study.children[20:]} == {7}
    assert [child.job.name for child in study.children[20:]] == [f"{child.job.name}.seed-7" for child in alone.children]
    records = records_of(study)
    for child in study.children[20:]:
        run = records[child.job.name]
        records[child.job.name] = replace(run, scores=tuple(replace(score, nmse=0.01) for score in run.scores))
    table = fig4(study, records)
    rows = to_rows(table)
    assert len(rows) == 20 and rows[0]["relative time"] == 1.0
    assert rows[3]["relative time"] == pytest.approx((4 / 1 + 24 / 21) / 2)
    assert [row["NMSE dB"] for row in rows] == pytest.approx([-15.0] * 20)
    assert [row["± dB"] for row in rows] == pytest.approx([50**0.5] * 20)
    assert any("Means over the seeds 1, 7" in note for note in table.notes)
    del records[study.children[-1].job.name]
    assert to_rows(fig4(study, records))[-1]["NMSE dB"] is None
    assert "± dB" not in fig4(alone, records).columns


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("table3", lambda study: table3(study, records_of(study))),
        ("fig4", lambda study: fig4(study, records_of(study))),
        ("fig1c", lambda study: fig1c(study, {"different_scale": 0.5, "same_scale": 0.0})),
    ],
)
def test_a_table_is_told_and_drawn(kind: StudyName, make: Callable[[Study], StudyTable], tmp_path: Path) -> None:
    table = make(a_study(kind, tmp_path))
    read = list(csv.DictReader(io.StringIO(to_csv(to_rows(table)))))
    assert len(read) == len(table.rows) and tuple(read[0]) == table.columns
    assert to_markdown(table).count("\n| ") == len(table.rows) + 2
    assert to_png(draw_study(kind, table)).startswith(b"\x89PNG")


def study_command(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> int:
    from jobs.cli.main import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["wavetrain", "study", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("changed", [["--samples", "64"], ["--targets", "D1"], ["--stores", "elsewhere"]])
def test_finished_runs_of_other_settings_are_refused(
    changed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds: tuple[StudyName, ...] = ("table2", "fig3")
    for kind in kinds:
        study = make_study(kind, f"{kind}-small", known_scales()["small"], tmp_path / "data", seed=42)
        directory = RunDirectory(tmp_path / "runs" / study.children[0].job.name)
        directory.path.mkdir(parents=True)
        write_json(directory.spec, study.children[0].job.model_dump(mode="json"))
        directory.update_state(status="FINISHED")
        assert study_command(monkeypatch, tmp_path, kind, "--dry-run") == 0
        capsys.readouterr()
        assert study_command(monkeypatch, tmp_path, kind, *changed, "--dry-run") == 2
        error = capsys.readouterr().err
        assert "another --name" in error and error.count("\n") == 1


def test_a_dry_run_names_what_is_left_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study_command(monkeypatch, tmp_path, "table3", "--sets", "8", "--dry-run") == 0
    assert "6 runs, 6 of them" in capsys.readouterr().out and not list(tmp_path.iterdir())
    study = make_study("table3", "table3-small", known_scales()["small"], Path("data"), seed=42)
    done = next(child for child in study.children if (child.method, child.sets) == ("global", 8))
    directory = RunDirectory(tmp_path / "runs" / done.job.name)
    directory.path.mkdir(parents=True)
    write_json(directory.spec, done.job.model_dump(mode="json"))
    directory.update_state(status="FINISHED")
    assert study_command(monkeypatch, tmp_path, "table3", "--sets", "8", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "6 runs, 5 of them" in said and "sets-8.global\n" not in said
    assert study_command(monkeypatch, tmp_path, "table3", "--sets", "8", "--epochs", "9", "--dry-run") == 2
    assert "another --name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table4"], "there are table2, table3, fig3, fig4, fig1c"),
        (["table3", "--scale", "huge"], "there are small, medium, published"),
        (["table3", "--sets", "8,many"], "no numbers of sets"),
        (["table3", "--samples", "0"], "samples = 0"),
        (["fig4", "--model", "large"], "model = 'large'"),
        (["table3", "--quadriga", "."], "for table2, fig3, scales"),
        (["table2", "--target-epochs", "0"], "target_epochs = 0"),
        (["fig3", "--quadriga", "nowhere"], "nowhere"),
        (["scales", "--targets", "D1,D3"], "no held-out set is longer than the 96 tokens that are trained"),
        (["fig3", "--targets", "D1,D99"], "no held-out set 'D99'"),
        (["recipe", "--changes", "unpacked"], "--changes: no change 'unpacked'"),
        (["recipe", "--seeds", "42,x"], "are no seeds"),
        (["recipe", "--seeds", "9" * 5000], "are no seeds"),
        (["recipe", "--samples", "0"], "samples = 0"),
        (["recipe", "--targets", "D99"], "no held-out set 'D99'"),
        (["recipe", "--model", "base"], "--model: the recipe is that of a shipped job"),
        (["recipe", "--epochs", "2"], "--epochs: the recipe is that of a shipped job"),
        (["fig4", "--changes", "packed"], "--changes: fig4 has no changes of a recipe"),
        (["fig3-wimamba", "--seeds", "42"], "--seeds: fig3-wimamba has one seed"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert study_command(monkeypatch, tmp_path, *arguments, "--dry-run") == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_a_batch_that_the_workers_cannot_share_is_refused(tmp_path: Path) -> None:
    scale = known_scales()["small"].model_copy(update={"global_batch": 15})
    with pytest.raises(UserError, match="global_batch"):
        make_study("fig4", "odd", scale, tmp_path, seed=1)
