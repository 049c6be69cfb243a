"""The study of scales: which runs there are, equal samples and steps with and without the longest sets, the table."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.presets import Preset, load_preset
from jobs.studies.extrapolation import choose_training_sets, tokens_by_set
from jobs.studies.extrapolation_table import extrapolation_scores, extrapolation_table
from jobs.studies.imported import Imported
from jobs.studies.run import write_table
from jobs.studies.spec import Study, known_scales, make_study
from jobs.studies.tables import to_rows
from orchestrator.evaluation.score import CLEAN, NOISY, Score
from orchestrator.report.record import RunRecord
from orchestrator.report.rows import to_csv
from samplers.catalogue import catalogue_of_specs
from samplers.plan import make_plan
from samplers.schedule import Schedule
from tests.jobs.studies.test_study import record_of

IMPORTED = ("P01", "P03", "P05", "P07", "P08", "P10", "P29", "P37")


def a_study(folder: Path, scale: str = "small", imported: Imported | None = None) -> Study:
    return make_study("scales", f"scales-{scale}", known_scales()[scale], folder, seed=1, imported=imported)


def imported_sets(folder: Path, names: Sequence[str] = IMPORTED, targets: Sequence[str] = ("D1", "D8")) -> Imported:
    preset = load_preset("hetercsi")
    sets = Preset(
        "own",
        tuple(row for row in preset.pretrain if row.name in names),
        tuple(row for row in preset.zeroshot if row.name in targets),
    )
    counts = {name: 60 if name in ("P29", "P37") else 100 for name in names}
    return Imported(folder / "source", folder / "imported", sets, training=counts)


def records_of(study: Study) -> dict[str, RunRecord]:
    """Without the longest sets longer ones have ten times the error, with flat positions hundred times."""
    records = {}
    for number, child in enumerate(study.children):
        flat = child.job.model.options["position"] == "flat"
        longer = 0.01 if child.method == "with" else 1.0 if flat else 0.1
        scores = [
            Score(task, name, "model", target, longer if length > 96 else 0.01, 4)
            for task in ("reconstruction", "time", "frequency")
            for name, length in tokens_by_set(study.preset.zeroshot).items()
            for target in (NOISY, CLEAN)
        ]
        records[child.job.name] = replace(record_of(study, number, 1.0), scores=tuple(scores))
    return records


@pytest.mark.parametrize("scale", list(known_scales()))
def test_every_kind_of_positions_is_trained_without_the_longest_sets_and_with_them(scale: str, tmp_path: Path) -> None:
    study = a_study(tmp_path, scale)
    runs = [(child.job.model.options["position"], child.method) for child in study.children]
    assert sorted(runs) == sorted((one, way) for one in ("flat", "grid", "rotary") for way in ("without", "with"))
    tokens = tokens_by_set(study.preset.pretrain)
    for child in study.children:
        longest = max(tokens[name] for name in child.job.data.sets or ())
        assert longest * study.scale.divide_subcarriers == (384 if child.method == "without" else 768)
        assert child.job.data.zeroshot_sets == study.scale.extrapolation.targets
        assert child.job.train.epochs == study.scale.extrapolation.epochs
        assert child.job.model.options["size"] == study.scale.model


@pytest.mark.parametrize("scale", ["small", "medium"])
def test_all_runs_have_as_many_samples_and_steps(scale: str, tmp_path: Path) -> None:
    study = a_study(tmp_path, scale)
    rows = {row.name: row for row in study.preset.pretrain}
    steps = set()
    for child in study.children:
        batching, names = child.job.batching, child.job.data.sets
        assert isinstance(names, tuple)
        sets = catalogue_of_specs([rows[name] for name in names], study.scale.samples)
        plan = make_plan(
            sets, strategy=batching.strategy, pack=batching.pack, batch=batching.global_batch,
            partitions=batching.partitions,
        )  # fmt: skip
        schedule = Schedule(sets, plan, child.job.seed, batching.partitions, child.job.train.epochs)
        steps.add((sets.total_samples, schedule.total_steps))
    assert len(steps) == 1


def test_imported_sets_are_trained_with_as_many_samples_each(tmp_path: Path) -> None:
    study = a_study(tmp_path, imported=imported_sets(tmp_path))
    without, beside = study.children[0].job.data, study.children[-1].job.data
    assert without.sets == ("P01", "P03", "P05", "P07", "P08", "P10")
    assert beside.sets == ("P01", "P03", "P05", "P07", "P29", "P37")
    assert {child.job.data.samples for child in study.children} == {60}
    assert without.zeroshot_sets == ("D1", "D8") and without.store == tmp_path / "imported"
    assert "P29, P37 in place of P08, P10; 6 sets each" in " ".join(study.left_out)


@pytest.mark.parametrize(
    ("names", "targets", "says"),
    [
        (("P01", "P03"), ("D1", "D8"), "0 pre-training sets have more than 384 tokens, 2 have not"),
        (("P01", "P37"), ("D1", "D8"), "1 pre-training sets have more than 384 tokens, 1 have not"),
        (IMPORTED, ("D1", "D4"), "no held-out set is longer than the 256 tokens"),
    ],
)
def test_sets_of_which_none_are_longer_are_refused(
    names: Sequence[str], targets: Sequence[str], says: str, tmp_path: Path
) -> None:
    sets = imported_sets(tmp_path, names, targets).sets
    if targets == ("D1", "D4"):
        sets = replace(sets, zeroshot=tuple(row for row in sets.zeroshot if row.name == "D1"))
    with pytest.raises(UserError, match=says) as error:
        choose_training_sets(sets, 384, {}, "here")
    assert "\n" not in str(error.value)


def test_what_is_lost_without_the_longest_sets_stands_beside_each_kind_of_positions(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    records = records_of(study)
    table = extrapolation_table(study, records)
    read = list(csv.DictReader(io.StringIO(to_csv(to_rows(table)))))
    assert len(read) == 4 * 6
    without = [row for row in read if row["longest sets"] == "without"]
    lost = {(row["task"], row["positions"]): row["lost without them, dB"] for row in without}
    for task in ("reconstruction", "time", "frequency", "average"):
        assert float(lost[task, "flat"]) == pytest.approx(20.0)
        assert float(lost[task, "grid"]) == pytest.approx(10.0) == float(lost[task, "rotary"])
    assert {row["lost without them, dB"] for row in read if row["longest sets"] == "with"} == {""}
    assert all(float(row["NMSE dB, lengths trained"]) == pytest.approx(-20.0) for row in read)
    assert {(row["longest sets"], row["trained up to, tokens"]) for row in read} == {("without", "96"), ("with", "192")}
    notes = " ".join(table.notes)
    assert "D1 (64), D3 (24), D4 (96). Longer: D8 (192), D12 (192)" in notes and "P29, P37, P39, P40" in notes
    scores = to_csv(extrapolation_scores(study, records))
    files = write_table(study, table, tmp_path, {"scales-scores.csv": scores})
    assert [path.name for path in files[:-1]] == [f"scales.{kind}" for kind in ("csv", "md", "html", "png")]
    assert len(files[-1].read_text().splitlines()) == 1 + 6 * 3 * 5 * 2


def test_a_missing_score_leaves_its_averages_empty(tmp_path: Path) -> None:
    study = a_study(tmp_path)
    records = records_of(study)
    name = study.children[0].job.name
    kept = tuple(one for one in records[name].scores if (one.task, one.set_name) != ("time", "D12"))
    records[name] = replace(records[name], scores=kept)
    rows = {(row[0], row[1], row[2]): row for row in extrapolation_table(study, records).rows}
    assert rows["time", "flat", "without"][6:] == (None, None) and rows["average", "flat", "without"][6] is None
    assert math.isclose(float(rows["time", "flat", "without"][5] or 0), -20.0)
    assert rows["frequency", "flat", "without"][7] is not None
