"""The worker on two real ranks, for every model: coverage, granularities, stopping and going on with dropout."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.export import load_model
from orchestrator.data.reader import open_training_data
from orchestrator.evaluation.nmse import evaluate_set
from orchestrator.run.adjustments import Adjustments, write_adjustments
from orchestrator.run.exports import step_of, unfinished, waiting_exports
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.job import JobSpec
from tests.attempts import prepare, work
from tests.jobs_for_tests import small_job
from tests.stores import make_random_store

SNAPSHOT_MODELS = {
    "wimamba": {"name": "wimamba", "size": "tiny", "patches": [2, 4]},
    "lwm": {"name": "lwm", "size": "tiny", "patches": [2, 4]},
    "raw": {"name": "raw", "patches": [2, 4]},
}


def snapshot_job(store: Path, model: dict[str, Any]) -> JobSpec:
    return small_job(
        store,
        model["name"],
        replace_model=model,
        data={"samples": 12},
        batching={"global_batch": 32, "buckets": 2, "partitions": 4},
        train={"epochs": 2, "lr": 1e-3, "warmup_epochs": 0.2},
    )


def events_of(directory: RunDirectory, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in directory.events.read_text().splitlines()]
    return [event for event in lines if event["kind"] == kind]


@pytest.mark.parametrize("model", SNAPSHOT_MODELS.values(), ids=SNAPSHOT_MODELS)
def test_snapshot_models_train_stop_and_go_on(
    ranks: Any, small_store: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    job = snapshot_job(small_store, model)
    straight = prepare(tmp_path / "straight", job)
    assert ranks(2, work, str(straight.path)) == ["finished"] * 2
    for epoch in events_of(straight, "epoch"):
        assert epoch["metrics"]["data/coverage"] == 1.0
        assert epoch["metrics"]["data/repeated"] == 0.0
        assert epoch["metrics"]["data/sample_weight_spread"] == pytest.approx(1.0)
        assert 0.0 <= epoch["metrics"]["data/rank_imbalance"] < 1.0
    for step in events_of(straight, "step"):
        assert 0.0 <= step["metrics"]["data/padding_ratio"] < 1.0
        assert 0.0 < step["metrics"]["perf/flops_per_s"] <= step["metrics"]["perf/computed_flops_per_s"]
        assert "perf/mfu" not in step["metrics"]

    broken = prepare(tmp_path / "broken", job)
    broken.stop_request.touch()
    assert ranks(2, work, str(broken.path)) == ["stopped"] * 2
    broken.stop_request.unlink()
    assert 0 < events_of(broken, "end")[0]["step"] < len(events_of(straight, "step"))
    assert ranks(2, work, str(broken.path)) == ["finished"] * 2
    assert (broken.export / "model.safetensors").read_bytes() == (straight.export / "model.safetensors").read_bytes()

    spec, _ = load_model(straight.export)
    scores = evaluate_set(straight.export, small_store, "H2", job)
    tasks = {score.task for score in scores}
    assert tasks == {"reconstruction_2x2", "reconstruction_4x4"} == {task.name for task in spec.evaluation_tasks}
    assert {score.samples for score in scores} == {10 * 12}


def test_every_snapshot_comes_once_at_one_granularity_and_both_are_balanced(small_store: Path) -> None:
    from models.registry import make_spec
    from orchestrator.data.plan import make_schedule

    job = snapshot_job(small_store, SNAPSHOT_MODELS["wimamba"])
    catalogue, data = open_training_data(job.data, make_spec("wimamba", job.model.options), job.seed)
    schedule = make_schedule(job, catalogue, data.flops)
    drawn: dict[int, dict[tuple[str, int], int]] = {}
    for epoch in range(2):
        drawn[epoch] = {}
        for step in range(schedule.steps(epoch)):
            for slice_ in schedule.global_step(epoch, step):
                assert {data.origins[source].variant for source in slice_.source} == {slice_.variant}
                true = slice_.weight > 0
                for source, index in zip(slice_.source[true], slice_.index[true], strict=True):
                    key = (data.origins[source].set_name, int(index))
                    assert key not in drawn[epoch]
                    drawn[epoch][key] = slice_.variant
        assert len(drawn[epoch]) == 12 * (8 + 8 + 12 + 6)
        sides, counts = np.unique(list(drawn[epoch].values()), return_counts=True)
        assert sides.tolist() == [2, 4] and abs(int(counts[0]) - int(counts[1])) <= 4
    assert drawn[0] != drawn[1]


def test_a_step_that_diverged_is_passed_over_and_its_samples_are_named(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    directory = prepare(tmp_path / "run", small_job(small_store, checkpoint={"every_steps": 5, "keep": 99}))
    write_adjustments(directory.adjustments, Adjustments(skipped_steps=(2,)))
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    [skipped] = events_of(directory, "skipped")
    assert skipped["step"] == 3
    assert 3 not in [event["step"] for event in events_of(directory, "step")]
    named = sum(map(len, skipped["samples"].values()))
    assert named == skipped["metrics"]["health/skipped_samples"] == 16
    first, second = (event["metrics"]["data/coverage"] for event in events_of(directory, "epoch"))
    assert (first, second) == (pytest.approx(1 - 16 / 180), 1.0)

    for state in sorted(directory.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(state)
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    again = [event["metrics"]["data/coverage"] for event in events_of(directory, "epoch")]
    assert again == [first, second] * 2, "an attempt that goes on does not count the step as done"


def test_a_repeated_epoch_whose_export_still_waits_leaves_no_second_one(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    sections = {"data": {"samples": 12}, "checkpoint": {"every_steps": 2, "keep": 99}}
    directory = prepare(tmp_path / "run", small_job(small_store, **sections, evaluation={"every_epochs": 1}))
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    [export] = waiting_exports(directory)
    weights = (export / "model.safetensors").read_bytes()
    broken_off = unfinished(export.with_name("step-000000001"))
    broken_off.mkdir()

    for state in sorted(directory.checkpoints.glob("step-*"))[1:]:
        shutil.rmtree(state)
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    assert [event["step"] for event in events_of(directory, "export")] == [step_of(export)] * 2
    assert list(directory.exports.iterdir()) == [export]
    assert (export / "model.safetensors").read_bytes() == weights


def test_a_task_that_masks_nothing_is_no_part_of_the_loss(ranks: Any, tmp_path: Path) -> None:
    """Channels of one slot have no later slots to forecast."""
    store = make_random_store(tmp_path / "store", np.random.default_rng(3), shapes={"S1": (1, 16, 4), "S2": (1, 24, 4)})
    job = small_job(store, "snapshots", batching={"buckets": 1}, data={"zeroshot_sets": []}, train={"epochs": 1})
    directory = prepare(tmp_path / "run", job)
    assert ranks(2, work, str(directory.path)) == ["finished"] * 2
    for step in events_of(directory, "step"):
        losses = {name: value for name, value in step["metrics"].items() if name.startswith("train/loss")}
        overall = losses.pop("train/loss")
        assert losses.keys() == {"train/loss_reconstruction", "train/loss_frequency"}
        assert overall == pytest.approx(np.mean(list(losses.values())))
