"""Table II and Fig. 3: which runs there are, on which channels, and the tables beside the published figures."""

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from channels.errors import UserError
from channels.files import write_json
from channels.presets import Preset, load_preset
from jobs.cli import study as study_command
from jobs.cli.main import main
from jobs.launch.sweep import Sweep
from jobs.studies import plans
from jobs.studies import run as study_run
from jobs.studies.children import waiting_children
from jobs.studies.figures import draw_study
from jobs.studies.imported import Imported, look_at, store_name
from jobs.studies.spec import Child, Study, StudyName, known_scales, make_study
from jobs.studies.table2 import score_rows, table2
from jobs.studies.tables import fig3, to_markdown, to_rows
from orchestrator.evaluation.score import CLEAN, NOISY, Score
from orchestrator.report.figure import to_png
from orchestrator.report.published import published
from orchestrator.run.folder import RunDirectory
from tests.conftest import REAL_DATA
from tests.jobs.studies.test_study import record_of

PUBLISHED_SETS = tuple(f"D{number}" for number in range(1, 13))


@pytest.fixture(autouse=True)
def _every_rival(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLM4CP is among the rivals, whatever is installed."""
    monkeypatch.setattr("jobs.studies.rivals.find_spec", lambda name: object())


def imported_sets(folder: Path, pretrain: int, targets: Sequence[str]) -> Imported:
    preset = load_preset("hetercsi")
    held_out = tuple(row for row in preset.zeroshot if row.name in targets)
    return Imported(folder / "source", folder / "imported", Preset("own", preset.pretrain[:pretrain], held_out))


def a_study(kind: StudyName, folder: Path, scale: str = "small", imported: Imported | None = None) -> Study:
    return make_study(kind, f"{kind}-{scale}", known_scales()[scale], folder, seed=1, imported=imported)


def scores_of(study: Study) -> dict[str, list[Score]]:
    """Of every run on its targets: HeterCSI 0.1 and beside it PAD 0.5 and Prony 0.05, other models 0.2, LSTM 0.01."""
    found: dict[str, list[Score]] = {}
    for child in study.children:
        job, rivals = child.job, study.scale.rivals
        targets = rivals.targets if job.data.target is None else (job.data.target,)
        tasks = {"hetercsi": ("reconstruction", "time", "frequency"), "wifo": ("reconstruction", "time", "frequency"),
                 "bert4mimo": ("reconstruction",)}.get(child.method) or (job.model.options["task"],)  # fmt: skip
        nmse = {"hetercsi": 0.1, "lstm": 0.01}.get(child.method, 0.2)
        scores = [Score(task, name, "model", NOISY, nmse, 4) for task in tasks for name in targets]
        if child.method == "hetercsi":
            scores += [Score("time", name, who, NOISY, value, 4) for who, value in (("pad", 0.5), ("prony", 0.05))
                       for name in targets]  # fmt: skip
        scores += [Score(tasks[0], name, "model", CLEAN, 0.001, 4, 0.9, 0.95) for name in targets]
        found[job.name] = scores
    return found


@pytest.mark.parametrize("scale", list(known_scales()))
def test_every_run_of_table2_can_be_made(scale: str, tmp_path: Path) -> None:
    study = a_study("table2", tmp_path, scale)
    targets = study.scale.rivals.targets
    assert [row.name for row in study.preset.zeroshot] == list(targets)
    assert [child.method for child in study.children[:2]] == ["hetercsi", "wifo"]
    rivals = study.children[2:]
    assert len(rivals) == 7 * len(targets) and len({child.job.name for child in study.children}) == 2 + len(rivals)
    for child in rivals:
        assert child.job.data.target in targets and child.job.data.samples == study.scale.rivals.samples
        assert child.job.data.store == study.children[0].job.data.store
    assert study.target_store is None and {child.job.data.target for child in study.children[:2]} == {None}


def test_scales_name_the_published_networks(tmp_path: Path) -> None:
    jobs = {child.method: child.job.model.options for child in a_study("table2", tmp_path, "published").children}
    assert jobs["lstm"]["layers"] == 4 and jobs["bert4mimo"]["size"] == "published" and jobs["wifo"]["size"] == "base"
    with_weights = make_study("table2", "x", known_scales()["small"], tmp_path, 1, gpt2=tmp_path / "gpt2")
    options = next(child.job.model.options for child in with_weights.children if child.method == "llm4cp")
    assert (options["width"], options["layers"], options["gpt2"]) == (768, 6, str(tmp_path / "gpt2"))


def test_beside_imported_channels_rivals_train_on_made_ones(tmp_path: Path) -> None:
    study = a_study("table2", tmp_path, imported=imported_sets(tmp_path, 5, ("D1", "D4", "D9")))
    assert study.scale.rivals.targets == ("D1", "D4") and study.scale.divide_subcarriers == 1
    pretrained, rivals = study.children[:2], study.children[2:]
    assert {child.job.data.store for child in pretrained} == {tmp_path / "imported"}
    assert {child.job.data.sets for child in pretrained} == {tuple(row.name for row in study.preset.pretrain)}
    assert {child.job.data.store for child in rivals} == {study.target_store} != {tmp_path / "imported"}
    notes = " ".join(table2(study, scores_of(study)).notes)
    assert "made here" in notes and "D7, D10" in notes and "imported channels, 5 pre-training sets" in notes
    with pytest.raises(UserError, match="none of the held-out sets D1, D4, D7, D10"):
        a_study("table2", tmp_path, imported=imported_sets(tmp_path, 5, ("D2",)))


def test_imported_targets_with_training_samples_are_trained_on(tmp_path: Path) -> None:
    imported = replace(imported_sets(tmp_path, 5, ("D1", "D4")), trained=frozenset(("D1", "D4")))
    study = a_study("table2", tmp_path, imported=imported)
    assert study.target_store is None
    assert {child.job.data.store for child in study.children} == {tmp_path / "imported"}
    assert "made here" not in " ".join(table2(study, scores_of(study)).notes)


def test_scores_on_imported_channels_are_kept_by_the_content_of_their_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = a_study("table2", tmp_path, imported=imported_sets(tmp_path, 5, ("D1", "D4")))
    child, nmse = study.children[-1], 0.1
    for content, kept in (("a" * 64, 0.1), ("b" * 64, 0.2), ("a" * 64, 0.1)):
        monkeypatch.setattr(study_run.ChannelStore, "open", lambda path, at=content: SimpleNamespace(fingerprint=at))
        made = [Score("reconstruction", "D4", "model", NOISY, nmse, 4)]
        monkeypatch.setattr(study_run, "evaluate_set", lambda *arguments, scores=made: scores)
        assert study_run.target_scores(study, child, tmp_path / "runs", lambda line: None)[0].nmse == kept
        nmse += 0.1


def test_sources_of_one_name_have_stores_of_their_own(tmp_path: Path) -> None:
    assert store_name(tmp_path / "a" / "city") != store_name(tmp_path / "b" / "city")
    assert store_name(tmp_path / "a" / ".." / "city") == store_name(tmp_path / "city")


def test_runs_on_another_content_of_the_imported_store_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = imported_sets(tmp_path, 5, ("D1", "D4"))
    study, runs = a_study("table2", tmp_path, imported=imported), tmp_path / "runs"
    for child in study.children:
        directory = RunDirectory(runs / child.job.name)
        directory.path.mkdir(parents=True)
        write_json(directory.spec, child.job.model_dump(mode="json"))
        of_source = child.job.data.store == imported.store
        directory.update_state(status="FINISHED", store_fingerprint="a" if of_source else "made")
    monkeypatch.setattr(Imported, "fingerprint", "a")
    assert not waiting_children(study.children, runs, imported)
    monkeypatch.setattr(Imported, "fingerprint", "b")
    with pytest.raises(UserError, match="another --name"):
        waiting_children(study.children, runs, imported)


def test_without_transformers_llm4cp_is_left_out_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.studies.rivals.find_spec", lambda name: None)
    study = a_study("table2", tmp_path)
    assert "llm4cp" not in {child.method for child in study.children}
    assert any("LLM4CP is left out" in note for note in table2(study, scores_of(study)).notes)


def test_table2_marks_the_best_and_stands_beside_the_published_figures(tmp_path: Path) -> None:
    study = a_study("table2", tmp_path, "published")
    table = table2(study, scores_of(study))
    rows = {(row["task"], row["set"]): row for row in to_rows(table)}
    assert len(rows) == 3 * 13
    figures = published("hetercsi")["table2"]
    for task, methods in figures.items():
        for method, known in methods.items():
            assert rows[task, "D7"][f"{method}, published"] == known["rows"][6]
            assert rows[task, "average"][f"{method}, published"] == known["average"]
    time, rec = rows["time", "average"], rows["reconstruction", "D2"]
    assert time["HeterCSI"] == pytest.approx(-10.0) and time["LSTM (full-shot)"] == pytest.approx(-20.0)
    assert time["PAD"] == pytest.approx(10 * math.log10(0.5)) and rec["Prony"] is None
    assert (time["best"], rec["best"], rows["frequency", "D1"]["best"]) == ("LSTM", "HeterCSI", "LSTM")
    assert to_markdown(table).count(" * |") == len(rows)
    assert any("GPT-2" in note for note in table.notes), "random weights are said"
    assert to_png(draw_study("table2", table)).startswith(b"\x89PNG")


def test_what_saw_the_target_is_said_and_what_solves_another_problem_is_no_best(tmp_path: Path) -> None:
    imported = replace(imported_sets(tmp_path, 5, ("D1", "D4")), trained=frozenset(("D1",)))
    study = a_study("table2", tmp_path, imported=imported)
    scores = scores_of(study)
    scores[study.children[0].job.name].append(Score("time", "D1", "lmmse", NOISY, 0.001, 4))
    for child in study.children:
        if child.method == "bert4mimo":
            scores[child.job.name] = [Score("reconstruction", str(child.job.data.target), "model", NOISY, 0.001, 4)]
    table = table2(study, scores)
    rows = {(row["task"], row["set"]): row for row in to_rows(table)}
    assert rows["time", "D1"]["LMMSE (target's statistics)"] == pytest.approx(-30.0)
    assert rows["reconstruction", "D1"]["best"] == "HeterCSI" and rows["time", "D1"]["best"] == "LMMSE"
    assert {row["shot"] for row in score_rows(study, scores) if row["method"] == "LMMSE"} == {"statistics"}
    notes = " ".join(table.notes)
    assert "No LMMSE on D4:" in notes and "test samples only" not in notes and "read apart" in notes
    assert "Not all imported targets bring training samples" in notes and "at most 160 training samples" in notes
    assert "No LMMSE" not in " ".join(table2(a_study("table2", tmp_path), scores_of(a_study("table2", tmp_path))).notes)
    assert to_png(draw_study("table2", table)).startswith(b"\x89PNG")


def test_averages_are_of_what_is_shown(tmp_path: Path) -> None:
    study = a_study("table2", tmp_path)
    scores = scores_of(study)
    [first, *others] = study.scale.rivals.targets
    of_hetercsi = scores[study.children[0].job.name]
    scores[study.children[0].job.name] = [score for score in of_hetercsi if score.set_name != first]
    rows = {(row["task"], row["set"]): row for row in to_rows(table2(study, scores))}
    assert rows["time", "average"]["HeterCSI"] is None and rows["time", others[0]]["HeterCSI"] is not None
    known = published("hetercsi")["table2"]["time"]["WiFo"]["rows"]
    shown = [10 ** (known[PUBLISHED_SETS.index(name)] / 10) for name in study.scale.rivals.targets]
    assert rows["time", "average"]["WiFo, published"] == pytest.approx(10 * math.log10(sum(shown) / len(shown)))


def test_every_score_is_a_row(tmp_path: Path) -> None:
    study = a_study("table2", tmp_path)
    rows = score_rows(study, scores_of(study))
    assert {row["shot"] for row in rows} == {"zero", "full", "none"}
    assert {row["shot"] for row in rows if row["method"] == "PAD"} == {"none"}
    assert {row["sgcs"] for row in rows if row["target"] == CLEAN} == {0.9}


@pytest.mark.parametrize("scale", list(known_scales()))
def test_fig3_has_every_strategy_at_every_number_of_sets(scale: str, tmp_path: Path) -> None:
    study = a_study("fig3", tmp_path, scale)
    numbers = study.scale.fig3_sets
    assert [child.sets for child in study.children] == [number for number in numbers for _ in range(4)]
    records = {child.job.name: record_of(study, number, 1.0) for number, child in enumerate(study.children)}
    table = fig3(study, records)
    rows = to_rows(table)
    assert len(rows) == 3 * len(study.children)
    eight = {(row["task"], row["batching"]): row for row in rows if row["sets"] == 8}
    assert eight["time", "bucket_4"]["published NMSE dB"] == -4.16
    assert eight["reconstruction", "sequential"]["published NMSE dB"] == -1.38
    assert eight["frequency", "global"]["NMSE dB"] == pytest.approx(-10.0)
    assert to_png(draw_study("fig3", table)).startswith(b"\x89PNG")


def test_fig3_on_imported_sets_takes_as_many_as_there_are(tmp_path: Path) -> None:
    study = a_study("fig3", tmp_path, "published", imported_sets(tmp_path, 18, ("D1", "D2")))
    assert study.scale.fig3_sets == (8, 16, 18)
    assert {child.job.data.zeroshot_sets for child in study.children} == {("D1", "D2")}
    names = [row.name for row in study.preset.pretrain]
    assert all(child.job.data.sets == tuple(names[: child.sets]) for child in study.children)
    assert any("imported ones" in note for note in fig3(study, {}).notes)


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no channels of others beside the repository")
def test_a_folder_of_files_is_looked_at_without_writing(tmp_path: Path) -> None:
    found = look_at(REAL_DATA / "layouts" / "hetercsi_published", tmp_path)
    assert [row.name for row in found.sets.pretrain] == ["P01", "P03"]
    assert [row.name for row in found.sets.zeroshot] == ["D3"]
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="no pre-training sets"):
        look_at(REAL_DATA / "layouts" / "hetercsi_published" / "zeroshot", tmp_path)


@pytest.mark.parametrize("launcher", ["slurm", "ray"])
def test_on_a_cluster_all_runs_are_submitted_as_one_sweep(
    launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = {"slurm": {"partition": "cpu", "nodes": 1}} if launcher == "slurm" else {"ray_address": "a:1"}
    profile = {"launcher": launcher, "network": {"interface": "eth0"}, **section}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump({"default": "here", "profiles": {"here": profile}}))
    made: list[Study] = []
    given: list[tuple[Sweep, int]] = []
    monkeypatch.setattr(study_command, "make_study_store", lambda study, progress: made.append(study))
    planned: list[Child] = []
    monkeypatch.setattr(plans, "check_plans", planned.extend)
    monkeypatch.setattr(study_command, "submit_sweep", lambda sweep, where, parallel: given.append((sweep, parallel)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["wavetrain", "study", "fig3", "--sets", "4,8", "--parallel", "3"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and "the same command writes the table" in capsys.readouterr().out
    [(sweep, parallel)] = given
    assert (sweep.name, parallel) == ("fig3-small", 3)
    assert [job.name for job in sweep.children] == [child.job.name for child in made[0].children]
    assert len(sweep.children) == len(planned) == 8
