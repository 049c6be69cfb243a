"""Packed batches through the data, the step and the worker: what padded batches give, and nothing padded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.errors import UserError
from models.interface import PackedBatch
from models.registry import make_spec
from orchestrator.data.plan import make_schedule
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.spec.job import JobSpec
from samplers.schedule import Schedule, Slice
from tests.jobs_for_tests import small_job
from tests.orchestrator.training.test_engine import assert_same_training, train_some
from tests.orchestrator.training.test_worker import SNAPSHOT_MODELS, events_of, prepare, snapshot_job, work

STEPS = 12
"""A whole epoch: its last slices hold fillers."""


def packed_job(store: Path, **sections: Any) -> JobSpec:
    batching = {"strategy": "packed", **sections.pop("batching", {})}
    return small_job(store, "packed", batching=batching, **sections)


def open_job(job: JobSpec) -> tuple[Schedule, TrainingData]:
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed, packed=job.batching.packed)
    return make_schedule(job, catalogue, data.flops), data


@pytest.fixture(scope="module")
def padded(ranks: Any, small_store: Path) -> dict[str, Any]:
    """One rank, padded, on the same plan."""
    [result] = ranks(1, train_some, small_job(small_store, train={"zero_stage": 0}), STEPS)
    return result


@pytest.mark.parametrize(("stage", "micro_batch"), [(2, 16), (3, 3)])
def test_training_equals_that_of_padded_batches(
    ranks: Any, small_store: Path, padded: dict[str, Any], stage: int, micro_batch: int
) -> None:
    job = packed_job(small_store, train={"zero_stage": stage}, batching={"micro_batch": micro_batch})
    results = ranks(2, train_some, job, STEPS)
    assert_same_training(results[0], padded, 2e-5)
    np.testing.assert_array_equal(results[0]["losses"], results[1]["losses"])
    for step, mine, theirs in zip(padded["ids"], results[0]["ids"], results[1]["ids"], strict=True):
        assert sorted(map(tuple, step)) == sorted(map(tuple, np.concatenate([mine, theirs])))
    assert sum((ids[:, 2] == 0).sum() for ids in padded["ids"]) > 0


def test_lwm_trains_on_packed_batches_under_partitioned_weights(ranks: Any, small_store: Path) -> None:
    model = {"name": "lwm", "size": "tiny", "patches": [2, 4], "dropout": 0.0}
    job = snapshot_job(small_store, model)
    alone = job.model_copy(update={"train": job.train.model_copy(update={"zero_stage": 0})})
    [padded] = ranks(1, train_some, alone, 3)
    packed = job.model_copy(
        update={
            "train": job.train.model_copy(update={"zero_stage": 3}),
            "batching": job.batching.model_copy(update={"strategy": "packed"}),
        }
    )
    assert_same_training(ranks(2, train_some, packed, 3)[0], padded, 2e-5)


def test_a_packed_run_over_all_sets_stops_and_goes_on_with_the_same_bits(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    job = packed_job(small_store, batching={"pack": "global", "batch_tokens": 1200}, data={"samples": 24})
    straight, broken = prepare(tmp_path / "straight", job), prepare(tmp_path / "broken", job)
    assert ranks(2, work, str(straight.path)) == ["finished"] * 2
    broken.stop_request.touch()
    assert ranks(2, work, str(broken.path)) == ["stopped"] * 2
    broken.stop_request.unlink()
    assert ranks(2, work, str(broken.path)) == ["finished"] * 2
    assert (broken.export / "model.safetensors").read_bytes() == (straight.export / "model.safetensors").read_bytes()
    for epoch in events_of(straight, "epoch"):
        assert (epoch["metrics"]["data/coverage"], epoch["metrics"]["data/epoch_padding_ratio"]) == (1.0, 0.0)
        assert 0.0 <= epoch["metrics"]["data/rank_imbalance"] < 0.5
    for step in events_of(straight, "step"):
        assert step["metrics"]["data/padding_ratio"] == 0.0
        assert 0.0 <= step["metrics"]["data/step_imbalance"] < 0.5
        assert step["metrics"]["perf/flops_per_s"] == pytest.approx(step["metrics"]["perf/computed_flops_per_s"])
    [note] = {event["text"] for event in events_of(straight, "note")}
    assert note.startswith("packed attention: ")


def test_fillers_are_left_out_but_no_batch_is_empty(small_store: Path) -> None:
    schedule, data = open_job(packed_job(small_store))
    slice_ = schedule.global_step(0, 0)[0]
    held = replace(slice_, weight=np.where(np.arange(len(slice_.index)) % 3 == 0, 0, 1).astype(np.float32))
    batch = data.batch(held)
    assert isinstance(batch, PackedBatch)
    true = held.source[held.weight > 0]
    assert len(batch.tokens) == data.padded_tokens(held) == data.lengths[true].sum() == data.valid_tokens([held])
    assert batch.weight.tolist() == [1.0] * len(true)
    assert data.computed_flops(held) == pytest.approx(3 * data.flops[true].sum())

    nothing = replace(slice_, weight=np.zeros_like(slice_.weight))
    batch = data.batch(nothing)
    assert batch.weight.tolist() == [0.0]
    assert len(batch.tokens) == data.lengths[slice_.source].min()


def test_a_batch_holds_the_samples_of_the_padded_one(small_store: Path) -> None:
    schedule, packed = open_job(packed_job(small_store))
    _, padded = open_job(small_job(small_store))
    slices: list[Slice] = [schedule.global_step(0, step)[0] for step in range(schedule.steps(0))]
    for slice_ in slices:
        flat, rows = packed.batch(slice_), padded.batch(slice_)
        true = rows.weight > 0
        assert flat.keys.tolist() == rows.keys[true].tolist()
        valid = np.arange(rows.tokens.shape[1]) < rows.lengths[true][:, None].numpy()
        np.testing.assert_array_equal(flat.tokens.numpy(), rows.tokens[true].numpy()[valid])


@pytest.mark.parametrize(("name", "options"), [("wimamba", {"scan": "mamba_ssm"}), ("raw", {})])
def test_models_without_packed_batches_refuse_them_in_one_line(
    small_store: Path, name: str, options: dict[str, str]
) -> None:
    job = snapshot_job(small_store, SNAPSHOT_MODELS[name] | options)
    spec = make_spec(name, job.model.options)
    with pytest.raises(
        UserError, match=f"batching.strategy packed: model {name} takes padded batches only; .*"
    ) as refused:
        open_training_data(job.data, spec, job.seed, packed=True)
    assert "\n" not in str(refused.value)


def test_pack_is_for_packed_batches(small_store: Path) -> None:
    with pytest.raises(ValueError, match="pack global is for strategy packed, not for bucket"):
        small_job(small_store, batching={"pack": "global"})
