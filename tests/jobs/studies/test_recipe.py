"""The study of a recipe: runs of equal cost that differ from a shipped job in one thing each, and their table."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from channels.catalogue import Counts
from channels.errors import UserError
from channels.presets import Preset, load_preset
from channels.specified import specified_store
from channels.store import ChannelStore
from jobs.studies import run as study_run
from jobs.studies import spec as study_spec
from jobs.studies.children import waiting_children
from jobs.studies.figures import draw_study
from jobs.studies.imported import Imported, look_at
from jobs.studies.plans import check_plans
from jobs.studies.recipe import BASE
from jobs.studies.recipe_table import differences_by_task, recipe_scores, recipe_table
from jobs.studies.run import held_out_scores, write_table
from jobs.studies.spec import Child, Study, known_scales, make_study, make_study_store
from jobs.studies.tables import to_rows
from orchestrator.data import reader
from orchestrator.evaluation.score import CLEAN, NOISY, Score
from orchestrator.report.figure import to_png
from orchestrator.report.record import RunRecord, Steps
from orchestrator.report.rows import to_csv
from orchestrator.spec.job import load_job, make_job
from orchestrator.spec.yaml_files import differences
from tests.channels.importers.layouts import D3, draw, write_config, write_split
from tests.jobs.studies.test_study import record_of, study_command

BASE_SPEC = Path(__file__).parents[3] / "jobs" / "hetercsi-cpu.yaml"
TASKS = ("reconstruction", "time", "frequency")


def a_study(folder: Path, imported: Imported | None = None, scale: str = "small", **changes: object) -> Study:
    shipped = known_scales()[scale]
    own = shipped.recipe.model_copy(update=changes)
    return make_study("recipe", "recipe", shipped.model_copy(update={"recipe": own}), folder, seed=1, imported=imported)


def imported_targets(folder: Path, targets: Sequence[str] = ("D1", "D8")) -> Imported:
    held_out = tuple(row for row in load_preset("hetercsi").zeroshot if row.name in targets)
    return Imported(folder / "source", folder / "imported", Preset("own", (), held_out), roles=("zeroshot",))


def nmse_of(child: Child) -> float:
    """packed has ten times the error of the base, and the runs of seed 43 half of that of 42."""
    return (0.1 if child.method == "packed" else 0.01) * (0.5 if child.job.seed == 43 else 1.0)


def scores_of(study: Study) -> dict[str, list[Score]]:
    return {
        child.job.name: [
            Score(task, name, who, target, nmse_of(child) if (who, target) == ("model", NOISY) else 1.0, 4)
            for task in TASKS
            for name in study.scale.zeroshot_sets
            for who, target in (("model", NOISY), ("model", CLEAN), ("pad", NOISY))
        ]
        for child in study.children
    }


def records_of(study: Study) -> dict[str, RunRecord]:
    """Each of 40 steps of half a minute; the loss falls from 39 to 0."""
    steps = np.arange(1.0, 41.0)
    known = {"step": steps, "loss": 40.0 - steps, "wall_s": 30.0 * steps, "seconds": 0 * steps + 30.0,
             "tokens_per_s": 0 * steps + 1000.0}  # fmt: skip
    series = Steps(**{name: known.get(name, np.zeros(40)) for name in Steps.__slots__})
    return {
        child.job.name: replace(record_of(study, number, 1.0), steps=series)
        for number, child in enumerate(study.children)
    }


def test_the_base_is_the_shipped_job_for_one_epoch(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    base, shipped = study.children[0].job, load_job(BASE_SPEC)
    assert study.children[0].method == BASE
    changes = {
        "model": [],
        "batching": ["buckets: 9 -> 7", "global_batch: 16 -> 32", "micro_batch: 8 -> 16"],
        "train": ["epochs: 5 -> 1"],
        "scale": [],
        "checkpoint": [],
    }
    for section, changed in changes.items():
        ours, theirs = (getattr(job, section).model_dump(mode="json") for job in (base, shipped))
        assert differences(theirs, ours) == changed, section
    assert shipped.data.preset is not None and shipped.data.preset.name == study.preset.name
    assert base.data.sets == tuple(row.name for row in load_preset("hetercsi").pretrain)
    assert study.preset.pretrain == load_preset("hetercsi").pretrain, "nothing is shortened"
    assert base.data.snr_db == shipped.data.snr_db
    assert (base.data.crop, shipped.data.crop) == ((), ("slots", "subcarriers"))


def test_it_does_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = a_study(tmp_path / "stores").children
    monkeypatch.chdir(tmp_path)
    assert a_study(tmp_path / "stores").children == here


@pytest.mark.parametrize("scale", list(known_scales()))
def test_every_run_differs_from_the_base_in_its_change_alone(scale: str, tmp_path: Path) -> None:
    study = a_study(tmp_path, scale=scale)
    text = (Path(study_spec.__file__).parent / "studies.yaml").read_text()
    definition = yaml.safe_load(text)["recipe"]
    assert len({child.job.name for child in study.children}) == len(study.children)
    seeds = dict.fromkeys(child.job.seed for child in study.children)
    assert tuple(seeds) == study.scale.recipe.seeds
    names = [BASE, *definition["changes"]]
    assert [child.method for child in study.children] == names * len(seeds)
    base = study.children[0].job.model_dump(mode="json")
    for child in study.children[1 : len(names)]:
        found = {line.split(":")[0] for line in differences(base, child.job.model_dump(mode="json"))} - {"name"}
        wanted = {override.split("=")[0] for override in definition["changes"][child.method]}
        assert found == wanted | ({"data.samples"} if child.method in definition["shares"] else set())
    assert definition["shares"].keys() <= definition["changes"].keys()


def test_all_runs_have_as_many_samples_but_those_of_equal_time(tmp_path: Path) -> None:
    study = a_study(tmp_path, samples=250)
    total = {child.method: child.sets * (child.job.data.samples or 0) for child in study.children}
    assert (total.pop("global-equal-time"), total.pop("crop-equal-time")) == (20 * 250, 64 * 250)
    assert set(total.values()) == {40 * 250}
    half = next(child.job.data for child in study.children if child.method == "half-of-the-sets")
    assert half.sets == 20 and half.samples == 500
    assert all(child.job.train.epochs == 1 for child in study.children)


def test_every_run_can_be_planned_and_one_that_cannot_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = a_study(tmp_path, samples=250)
    store = specified_store(study.store, study.preset, Counts(train=study.scale.samples, val=0, test=1))
    monkeypatch.setattr(reader, "open_store", lambda path, preset: store)
    check_plans(study.children)
    (other,) = (child for child in study.children if child.method == "half-of-the-sets")
    broken = replace(other, job=make_job(other.job.model_dump(mode="json"), ["batching.buckets=7"], "a test"))
    with pytest.raises(UserError, match=r"run recipe\.half-of-the-sets\.seed-42: .*7 buckets for 5 distinct lengths"):
        check_plans([study.children[0], broken])


def test_whichever_changes_are_chosen_the_channels_are_the_same(tmp_path: Path) -> None:
    every, some = a_study(tmp_path, samples=3), a_study(tmp_path, samples=3, changes=("packed",), seeds=(7, 8, 7))
    assert [(child.method, child.job.seed) for child in some.children] == [
        ("base", 7), ("packed", 7), ("base", 8), ("packed", 8)
    ]  # fmt: skip
    assert every.store == some.store and some.scale.samples == 6
    with pytest.raises(UserError, match="no change 'unpacked'; there are base, flat-positions"):
        a_study(tmp_path, changes=("unpacked",))


def test_imported_sets_are_scored_after_the_same_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, study = a_study(tmp_path), a_study(tmp_path, imported_targets(tmp_path))
    assert study.children == made.children and study.store == made.store
    assert study.scale.zeroshot_sets == ("D1", "D8") and "D2, D3, D4" in " ".join(study.left_out)
    calls: list[str] = []

    def evaluate(export: Path, store: Path, name: str, job: object) -> list[Score]:
        calls.append(name)
        return [Score("time", name, "model", NOISY, 0.25, 4)]

    monkeypatch.setattr(study_run, "evaluate_set", evaluate)
    monkeypatch.setattr(study_run.ChannelStore, "open", lambda path: SimpleNamespace(fingerprint="a" * 64))
    child, runs = study.children[0], tmp_path / "runs"
    for _ in range(2):
        found = held_out_scores(study, child, runs, lambda line: None)
        assert [score.set_name for score in found] == ["D1", "D8"] and calls == ["D1", "D8"]
    more = a_study(tmp_path, imported_targets(tmp_path, ("D1", "D4", "D8")))
    assert len(held_out_scores(more, child, runs, lambda line: None)) == 3 and calls == ["D1", "D8", "D4"]
    assert held_out_scores(made, child, runs, lambda line: None) == [], "scores on made channels are others"
    assert waiting_children(study.children, runs, study.imported) == list(study.children)


def test_channels_are_made_and_only_held_out_ones_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    for role, split in (("train", "train"), ("zeroshot", "test")):
        write_config(source / role / "D3", D3)
        write_split(source / role / "D3", split, draw(2, *D3.shape))
    imported = look_at(source, tmp_path, ("zeroshot",))
    assert not imported.sets.pretrain and len(look_at(source, tmp_path).sets.pretrain) == 1
    with pytest.raises(UserError, match="no held-out sets"):
        look_at(source / "train", tmp_path, ("zeroshot",))
    made: list[tuple[Path, int]] = []
    monkeypatch.setattr(
        study_spec, "make_store", lambda path, preset, counts, seed, progress: made.append((path, counts.train))
    )
    study = a_study(tmp_path, imported, samples=4)
    make_study_store(study, lambda name, done, total: None)
    assert made == [(study.store, 8)] and study.store != imported.store
    assert [entry.role for entry in ChannelStore.open(imported.store).sets.values()] == ["zeroshot"]


def test_the_table_compares_runs_with_the_base_of_their_seed(tmp_path: Path) -> None:
    study = a_study(tmp_path, changes=("packed", "half-of-the-sets"), seeds=(42, 43))
    table = recipe_table(study, records_of(study), scores_of(study))
    read = list(csv.DictReader(io.StringIO(to_csv(to_rows(table)))))
    assert [(row["change"], row["seed"]) for row in read] == [
        (change, seed) for change in ("base", "packed", "half-of-the-sets") for seed in ("42", "43", "mean")
    ]
    rows = {(row["change"], row["seed"]): row for row in read}
    packed = rows["packed", "43"]
    assert float(packed["over base, dB"]) == pytest.approx(10.0)
    assert float(packed["average"]) == pytest.approx(10 * np.log10(0.05)) == float(packed["time"])
    assert (packed["steps"], float(packed["minutes"]), float(packed["valid tokens/s"])) == ("40", 20.0, 1000.0)
    assert float(packed["final loss"]) == pytest.approx(0.5), "mean of the last two steps of 40"
    assert rows["packed", "mean"]["over base, dB"] == "10.00 ± 0.00"
    assert (
        rows["base", "mean"]["average"] == "-21.51 ± 2.13" and rows["base", "mean"]["final loss"] == "0.5000 ± 0.0000"
    )
    assert not rows["base", "42"]["over base, dB"] and not rows["base", "mean"]["over base, dB"]
    assert float(rows["half-of-the-sets", "42"]["over base, dB"]) == pytest.approx(0.0)
    notes = " ".join(table.notes)
    assert "one epoch of 40 sets x 500 samples" in notes and "As many in all: half-of-the-sets (20 x 1000)." in notes
    assert "Fewer" not in notes and "standard deviation" in notes and "(made here)" in notes
    scored = recipe_scores(study, scores_of(study))
    assert len(scored) == len(study.children) * 3 * 12 * 2 and scored[0]["change"] == "base"
    files = write_table(study, table, tmp_path, {"recipe-scores.csv": to_csv(scored)})
    assert [path.name for path in files] == [
        "recipe.csv",
        "recipe.md",
        "recipe.html",
        "recipe.png",
        "recipe-scores.csv",
    ]


def test_one_seed_has_no_mean_and_a_missing_score_no_average(tmp_path: Path) -> None:
    study = a_study(tmp_path, changes=("packed", "batch-16"))
    scores = scores_of(study)
    name = next(child.job.name for child in study.children if child.method == "batch-16")
    scores[name] = [one for one in scores[name] if (one.task, one.set_name) != ("time", "D12")]
    table = recipe_table(study, records_of(study), scores)
    assert table.column("seed") == [42, 42, 42] and "deviation" not in " ".join(table.notes)
    assert "As many in all" not in " ".join(table.notes)
    every = " ".join(recipe_table(a_study(tmp_path), {}, {}).notes)
    assert "More or fewer, which take about as long: global-equal-time (40 x 250), crop-equal-time (40 x 800)." in every
    assert table.rows[1][0] == "batch-16" and table.rows[1][7:] == (None, pytest.approx(-20.0), None, None)
    shown = differences_by_task(table)
    assert list(shown) == [*TASKS, "average"]
    assert shown["time"] == {"packed": [pytest.approx(10.0)]} == shown["average"]
    assert shown["frequency"] == {"packed": [pytest.approx(10.0)], "batch-16": [pytest.approx(0.0)]}
    assert to_png(draw_study("recipe", table)).startswith(b"\x89PNG")


def test_the_command_line_chooses_changes_and_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--changes", "packed, batch-16", "--seeds", "1,2", "--samples", "8"]
    assert study_command(monkeypatch, tmp_path, "recipe", *chosen, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "6 runs, 6 of them" in said and "recipe-small.packed.seed-2\n" in said and "-n16-" in said
    assert not list(tmp_path.iterdir())
