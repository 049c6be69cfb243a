"""Whole comparisons of untrained encoders: what they leave, what a second call does, and what is refused beforehand."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from channels.errors import UserError
from channels.files import write_json
from models.interface import PretrainingModel
from orchestrator.downstream import work
from orchestrator.downstream.embedding import Batches
from orchestrator.downstream.encoders import Encoder
from orchestrator.downstream.heads import Scaling
from orchestrator.downstream.results.scores import averaged
from orchestrator.downstream.results.write import write_files
from orchestrator.downstream.run import Comparison, compare, prepare
from orchestrator.downstream.task import Training, read_task
from orchestrator.downstream.tuning import make_tunable, train_vectors, whole_batch
from orchestrator.downstream.views import View
from tests.orchestrator.downstream.scenes import comparison, make_scenes, pool_of, spec_of, users_of, write_set

Exports = dict[str, Path | None]
FEW = {"epochs": 2, "batch": 32}
TASKS: dict[str, dict[str, Any]] = {
    "los": {"feature": "class", "hidden": [8], "loss": "cross_entropy", "metrics": ["weighted_f1"], "label": ["los"],
            "classes": 2},
    "beam": {"feature": "mean", "hidden": [16], "loss": "cross_entropy", "metrics": ["top_1", "top_3"],
             "codebook": "antennas", "absent_classes": "count"},
    "place": {"feature": "mean", "hidden": [8], "loss": "mse", "metrics": ["euclidean_m"], "label": ["pos"],
              "columns": 2, "origin": ["tx_pos"], "normalisation": "gain"},
    "fill": {"feature": "patches", "loss": "mse", "metrics": ["nmse_db"], "given": {"subcarriers": 2}},
}  # fmt: skip


@pytest.fixture
def quick(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes the tasks, of two epochs each, as files; keyword arguments change fields of all."""

    def write(*names: str, **changes: Any) -> list[str]:
        paths = []
        for name in names or TASKS:
            path = tmp_path / f"{name}.yaml"
            path.write_text(yaml.safe_dump({"name": name, **TASKS[name], "training": FEW, **changes}))
            paths.append(str(path))
        return paths

    return write


def run(spec: Any, exports: Exports, folder: Path, said: list[str] | None = None) -> Comparison:
    bench, encoders = prepare(spec, {name: exports[name] for name in spec.encoders}, "cpu")
    return compare(bench, encoders, folder, "cpu", (said if said is not None else []).append)


def test_all_tasks_and_their_files(scenes: Path, exports: Exports, tmp_path: Path, quick: Any) -> None:
    chosen: Exports = {name: exports[name] for name in ("wimamba", "hetercsi", "raw")}
    before = {path: path.read_bytes() for export in chosen.values() if export for path in export.iterdir()}
    spec = comparison(scenes, chosen, tasks=quick(), patches=[4, 6], name="all")
    found = run(spec, exports, tmp_path / "out")
    means = averaged(found.scores)
    units = {(mean.encoder, mean.patch) for mean in means}
    assert units == {("wimamba", 4), ("wimamba", 6), ("hetercsi", 4), ("raw", 4), ("raw", 6)}
    # Five metrics of four tasks, two shares.
    assert len(means) == len(units) * 5 * 2
    assert all(mean.seeds == 2 and mean.deviation is not None and np.isfinite(mean.value) for mean in means)
    assert all(mean.trained + mean.tested == 120 for mean in means if mean.share == 100)
    assert {path: path.read_bytes() for path in before} == before
    assert [(cost.encoder, cost.patch) for cost in found.costs] == [*dict.fromkeys((m.encoder, m.patch) for m in means)]
    assert all(cost.ms > 0 and cost.memory_mb > 0 for cost in found.costs)
    files = {path.name: path for path in write_files(found, tmp_path / "out")}
    assert set(files) == {
        "downstream.csv", "downstream.md", "downstream.html", "fig3.png", "fig3.svg", "cost.png", "cost.svg"
    }  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(files["downstream.csv"].read_text())))
    assert len(rows) == len(means) and {row["unfreeze"] for row in rows} == {"0"}
    text = files["downstream.md"].read_text()
    assert "## fill: nmse_db" in text and "| wimamba 6x6 |" in text and "WiMamba | 0.925" in text
    assert "every 2. subcarrier" in text and "best of 8 DFT beams, computed" in text


def test_the_same_numbers_again_and_resume_after_an_interruption(
    scenes: Path, exports: Exports, tmp_path: Path, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = comparison(scenes, {"hetercsi": exports["hetercsi"], "raw": None}, tasks=quick("los", "fill"))
    whole = run(spec, exports, tmp_path / "whole")
    done: list[str] = []
    real = work.train_head

    def stopped(*arguments: Any) -> Any:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append("head")
        return real(*arguments)

    monkeypatch.setattr(work, "train_head", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(spec, exports, tmp_path / "parts")
    # Four heads of hetercsi were kept, the first of raw was not.
    assert {path.name for path in (tmp_path / "parts" / "scores").glob("*.json")} == {
        "hetercsi-p4-los.json", "hetercsi-p4-fill.json"
    }  # fmt: skip
    monkeypatch.setattr(work, "train_head", lambda *arguments: done.append("again") or real(*arguments))
    said: list[str] = []
    assert run(spec, exports, tmp_path / "parts", said).scores == whole.scores
    assert done[5:] == ["again"] * 4
    assert [line.split(":")[0] for line in said] == ["raw 4x4, los", "raw 4x4, fill"]
    assert run(spec, exports, tmp_path / "parts").scores == whole.scores
    assert len(done) == 9
    run(spec.model_copy(update={"seeds": 1}), exports, tmp_path / "parts")
    assert len(done) == 9 + 4


def test_several_processes_give_the_same_numbers(scenes: Path, exports: Exports, tmp_path: Path, quick: Any) -> None:
    spec = comparison(scenes, {"raw": None}, tasks=quick("los", "fill"), seeds=1, shares=[100])
    alone = run(spec, exports, tmp_path / "alone")
    bench, encoders = prepare(spec, {"raw": None}, "cpu")
    together = compare(bench, encoders, tmp_path / "together", "cpu", lambda line: None, processes=2)
    assert together.scores == alone.scores


@pytest.mark.parametrize("name", ["wimamba", "hetercsi"])
def test_unfrozen_layers_are_trained_marked_and_forgotten(
    scenes: Path, exports: Exports, tmp_path: Path, quick: Any, name: str
) -> None:
    chosen: Exports = {name: exports[name], "raw": None}
    fields: dict[str, Any] = {"tasks": quick("los", "place", "fill"), "seeds": 1, "shares": [100], "samples": 30}
    frozen = run(comparison(scenes, chosen, **fields), exports, tmp_path / "frozen")
    spec = comparison(scenes, chosen, unfreeze=1, **fields)
    tuned = run(spec, exports, tmp_path / "tuned")
    pairs = list(zip(tuned.scores, frozen.scores, strict=True))
    for one, other in pairs:
        assert one.unfreeze == (0 if one.encoder == "raw" else 1)
        assert (one.value == other.value) == (one.encoder == "raw") or one.task == "los"
    text = tmp_path / "tuned" / "downstream.md"
    write_files(tuned, tmp_path / "tuned")
    assert f"{name} 4x4, last 1 trained" in text.read_text() and "embeddings are not frozen" in text.read_text()
    spec = comparison(scenes, chosen, unfreeze=9, **fields)
    with pytest.raises(UserError, match="unfreeze 9, but the encoder has 4 layers"):
        run(spec, exports, tmp_path / "deep")


def test_a_copy_is_tuned_and_only_its_last_layers(exports: Exports) -> None:
    _, model = Encoder("wimamba", exports["wimamba"], 4).load()
    tunable = make_tunable(model, 2, [], [], "cpu")
    trained = {name for name, part in tunable.model.named_parameters() if part.requires_grad}
    assert trained and all(name.startswith(("backbone.layers.2.", "backbone.layers.3.")) for name in trained)
    with torch.no_grad():
        next(tunable.layers.parameters()).add_(1)
    pairs = zip(model.parameters(), tunable.model.parameters(), strict=True)
    assert sum(not torch.equal(one, other) for one, other in pairs) == 1


@pytest.mark.parametrize("name", ["wimamba", "hetercsi"])
def test_training_moves_the_last_layers_and_no_bit_of_the_others(scenes: Path, exports: Exports, name: str) -> None:
    pool, encoder = pool_of(scenes, samples=20), Encoder(name, exports[name], 4)
    spec, model = encoder.load()
    batches = [Batches(pool, one, spec, 4, View()) for one in pool.sets]
    tunable = make_tunable(model, 1, batches, [whole_batch(one) for one in batches], "cpu")
    task = read_task("los").model_copy(update={"training": Training(epochs=2, batch=16)})
    rows, labels = np.arange(40), np.arange(40) % 2
    width = tunable.feature("mean", 0, np.arange(2)).shape[1]
    train_vectors(
        task, lambda number, index: tunable.feature("mean", number, index), tunable.layers,
        Scaling(torch.zeros(width), torch.ones(width)), np.asarray([0, 20]), labels, 2, rows[:30], rows[30:], seed=0,
    )  # fmt: skip
    before, after = model.state_dict(), tunable.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    last = {"wimamba": "backbone.layers.3.", "hetercsi": "encoder.blocks.3."}[name]
    assert changed and all(key.startswith(last) for key in changed)


def test_few_samples_are_spread_over_a_set(scenes: Path) -> None:
    whole, some = pool_of(scenes), pool_of(scenes, samples=12)
    chosen = np.arange(12) * 5
    assert [(split, index.tolist()) for split, index in some.sets[1].splits] == [
        ("train", chosen[:10].tolist()), ("val", (chosen[10:] - 50).tolist())
    ]  # fmt: skip
    assert np.array_equal(some.sets[1].labels["pos"], whole.sets[1].labels["pos"][chosen])
    assert np.array_equal(some.read(some.sets[1], np.arange(12)), whole.read(whole.sets[1], chosen))
    assert np.array_equal(some.sets[1].gain_db, whole.sets[1].gain_db[chosen])


BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"label": ["speed"]}, "set A: task los: no label speed; it has gain_db, los, pos, three, tx_pos"),
    ({}, {"label": ["pos"]}, r"set A, label pos: task los: shape \(60, 3\) of type float32, not one whole number"),
    ({}, {"label": ["three"]}, r"label three: task los: class 2 is not within 0..1"),
    ({"sets": ["A", "C"]}, {}, "no set 'C'"),
    ({"split": {"by": "stored"}, "shares": [1]}, {}, "1 training sample of 100"),
    ({"gain": ["pos"]}, {}, r"set A: label 'pos' has shape \(60, 3\)"),
    ({"tasks": ["sight"]}, {}, "no task 'sight'; shipped: los, beam"),
    ({"tasks": ["los", "los"]}, {}, "two tasks are called 'los'"),
]


@pytest.mark.parametrize(("fields", "changes", "said"), BAD)
def test_bad_input_is_one_line_before_anything_runs(
    scenes: Path, quick: Any, fields: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        prepare(comparison(scenes, {"raw": None}, **{"tasks": quick("los", **changes), **fields}), {"raw": None}, "cpu")
    assert "\n" not in str(caught.value)


def test_classes_that_are_not_trained_on(tmp_path: Path, quick: Any) -> None:
    store = make_scenes(tmp_path / "store", count=20)
    channel, labels = users_of(20, 5)
    write_set(store, spec_of("C"), channel, {**labels, "los": np.full(20, 1, np.int8), "three": np.full(20, 2)})
    write_set(store, spec_of("D"), channel, {**labels, "los": np.zeros(20, np.int8), "three": np.zeros(20, np.int64)})
    fields: dict[str, Any] = {"split": {"by": "scenario", "test": ["A"]}, "tasks": quick("los")}
    with pytest.raises(UserError, match="task los: all training samples are of class 1; take a larger share"):
        prepare(comparison(store, {"raw": None}, sets=["A", "C"], **fields), {"raw": None}, "cpu")
    fields["tasks"] = quick("los", label=["three"], classes=3)
    with pytest.raises(UserError, match="class 1 is tested, but no training sample has it"):
        prepare(comparison(store, {"raw": None}, sets=["A", "C", "D"], **fields), {"raw": None}, "cpu")
    fields["tasks"] = quick("los", label=["three"], classes=3, absent_classes="count")
    spec = comparison(store, {"raw": None}, sets=["A", "C", "D"], **fields)
    found = run(spec, {"raw": None}, tmp_path / "out")
    assert {score.unseen for score in found.scores} == {7}
    assert any("up to 7 test samples are of classes never trained on" in note for note in found.notes)


def test_arrays_whose_codebooks_differ_are_refused(tmp_path: Path, quick: Any) -> None:
    write_set(tmp_path / "store", spec_of("A"), *users_of(20, 0))
    write_set(tmp_path / "store", spec_of("B", shape=(1, 8, 4)), *users_of(20, 1, (1, 8, 4)))
    with pytest.raises(UserError, match=r"the codebooks differ \(A 8, B 4\)"):
        prepare(comparison(tmp_path / "store", {"raw": None}, tasks=quick("beam")), {"raw": None}, "cpu")
    with pytest.raises(UserError, match="task beam, set B: 8 beams are more than 4 antennas resolve"):
        prepare(comparison(tmp_path / "store", {"raw": None}, tasks=quick("beam", codebook=8)), {"raw": None}, "cpu")


def test_entries_of_patches_that_only_tested_sets_have_are_refused(tmp_path: Path, quick: Any) -> None:
    write_set(tmp_path / "store", spec_of("A", shape=(1, 8, 4)), *users_of(20, 0, (1, 8, 4)))
    write_set(tmp_path / "store", spec_of("B"), *users_of(20, 1))
    fields: dict[str, Any] = {"tasks": quick("fill"), "split": {"by": "scenario", "test": ["B"]}, "seeds": 1}
    spec = comparison(tmp_path / "store", {"raw": None}, patches=[8], **fields)
    with pytest.raises(UserError, match="no training sample has 32 of the 128 numbers of a token, which are tested"):
        run(spec, {"raw": None}, tmp_path / "out")
    fields["split"] = {"by": "scenario", "test": ["A"]}
    spec = comparison(tmp_path / "store", {"raw": None}, patches=[8], **fields)
    assert len(run(spec, {"raw": None}, tmp_path / "out").scores) == 2


def test_places_are_from_an_origin_in_all_sets_or_in_none(tmp_path: Path, quick: Any) -> None:
    make_scenes(tmp_path / "store", count=20)
    channel, labels = users_of(20, 5)
    write_set(tmp_path / "store", spec_of("C"), channel, {key: labels[key] for key in ("pos", "gain_db")})
    with pytest.raises(UserError, match="set C: task place: no origin tx_pos, which set A has; import it with"):
        prepare(comparison(tmp_path / "store", {"raw": None}, tasks=quick("place")), {"raw": None}, "cpu")
    prepare(comparison(tmp_path / "store", {"raw": None}, tasks=quick("place"), sets=["C"]), {"raw": None}, "cpu")
    prepare(comparison(tmp_path / "store", {"raw": None}, tasks=quick("place", origin=[])), {"raw": None}, "cpu")


def test_an_export_of_another_kind_is_refused(scenes: Path, exports: Exports, tmp_path: Path) -> None:
    spec = comparison(scenes, {"mine": tmp_path})
    with pytest.raises(UserError, match="cannot be read"):
        prepare(spec, {"mine": tmp_path}, "cpu")
    write_json(tmp_path / "config.json", {"model": "resnet", "options": {}})
    with pytest.raises(UserError, match="unknown model 'resnet'"):
        prepare(spec, {"mine": tmp_path}, "cpu")


def test_a_model_without_an_encoder_is_refused_before_anything_runs(
    scenes: Path, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "load", lambda self: (self.spec(), PretrainingModel()))
    spec = comparison(scenes, {"rival": exports["lwm"]})
    with pytest.raises(UserError, match="encoder rival: lwm has no encoder, so it gives no embeddings"):
        prepare(spec, {"rival": exports["lwm"]}, "cpu")


def test_two_processes_do_not_work_in_one_folder(scenes: Path, exports: Exports, tmp_path: Path, quick: Any) -> None:
    from orchestrator.run.file_lock import try_lock

    spec = comparison(scenes, {"raw": None}, tasks=quick("los"))
    with (tmp_path / "lock").open("w") as held:
        assert try_lock(held)
        with pytest.raises(UserError, match="another process works on this comparison"):
            run(spec, exports, tmp_path)
