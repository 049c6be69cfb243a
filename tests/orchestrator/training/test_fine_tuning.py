"""Runs that begin with exported weights, frozen parts and slower layers, on real ranks and every ZeRO stage."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from models.export import save_model
from models.interface import MaskDraw
from models.registry import make_spec
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import check_beginning, keep_copy
from orchestrator.spec.job import JobSpec
from orchestrator.training.build import open_job
from orchestrator.training.engine import task_scale
from tests.attempts import prepare, work
from tests.jobs_for_tests import small_job
from tests.orchestrator.checkpoint.test_format import train as train_and_save
from tests.orchestrator.training.test_engine import assert_same_training, train_some

FROZEN = ("encoder.", "patch_embedding.")
MODEL = {"name": "hetercsi", "size": "tiny", "position": "grid"}


def tuning(stage: int, **fields: Any) -> dict[str, Any]:
    return {"zero_stage": stage, "freeze": ["encoder", "patch_embedding"], "layer_lr_decay": 0.7, **fields}


@pytest.fixture(scope="module")
def reference(ranks: Any, small_store: Path) -> dict[str, Any]:
    """One rank, no ZeRO."""
    [result] = ranks(1, train_some, small_job(small_store, train=tuning(0)), 4)
    return result


def drawn(job: JobSpec) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = make_spec(job.model.name, job.model.options).build(job.seed).state_dict()
    return weights


@pytest.mark.parametrize(("stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (2, "bf16_pure")])
def test_frozen_weights_do_not_change_by_a_bit(
    ranks: Any, small_store: Path, reference: dict[str, Any], stage: int, precision: str
) -> None:
    job = small_job(small_store, train=tuning(stage, precision=precision))
    [result, _] = ranks(2, train_some, job, 4)
    if precision == "fp32":
        assert_same_training(result, reference, 2e-5)
    for name, weight in drawn(job).items():
        assert np.array_equal(result["weights"][name], weight.numpy()) == name.startswith(FROZEN), name


def test_layers_learn_at_their_own_rates(ranks: Any, small_store: Path) -> None:
    """The first step of AdamW moves a weight by its rate, if there is no decay."""
    job = small_job(small_store, train={"zero_stage": 2, "layer_lr_decay": 0.5, "weight_decay": 0.0})
    [result] = ranks(1, train_some, job, 1)
    before = drawn(job)
    moved = {name: np.abs(result["weights"][name] - before[name].numpy()).max() for name in before}
    # Layers: embedding, 4 blocks, link, 2 blocks, head.
    for name, layer in [("head.weight", 0), ("decoder.blocks.1.mlp.0.weight", 1), ("encoder.blocks.3.mlp.0.weight", 4)]:
        assert moved[name] == pytest.approx(1e-3 * 0.5**layer, rel=0.02), name


def test_states_hold_what_is_trained_and_go_on_at_another_stage(ranks: Any, small_store: Path, tmp_path: Path) -> None:
    root = tmp_path / "checkpoints"
    before, after = (small_job(small_store, train=tuning(stage)) for stage in (3, 0))
    ranks(2, train_and_save, before, str(root), True, 2, True)
    [folder] = root.glob("step-*")
    names = {key for file in folder.glob("*.safetensors") for key in load_file(file)}
    assert names and not any("encoder.blocks" in name or "patch_embedding" in name for name in names)
    [found] = ranks(1, train_and_save, after, str(root), False, 2, False)
    [expected] = ranks(1, train_and_save, after, "unused", True, 4, False)
    np.testing.assert_allclose(found["losses"], expected["losses"][2:], rtol=1e-5)
    for name, weight in drawn(after).items():
        assert np.array_equal(found["weights"][name], weight.numpy()) == name.startswith(FROZEN), name


def begin(folder: Path, job: JobSpec) -> RunDirectory:
    """The folder of a run that has not begun, as the controller leaves it. Sources lie beside it."""
    directory = prepare(folder, job)
    initial = check_beginning(job, make_spec(job.model.name, job.model.options), folder.parent)
    assert initial is not None
    keep_copy(initial, directory)
    return directory


def first_losses(directory: RunDirectory) -> list[float]:
    lines = [json.loads(line) for line in directory.events.read_text().splitlines()]
    first = next(line for line in lines if line["kind"] == "step")
    return [value for name, value in sorted(first["metrics"].items()) if name.startswith("train/loss_")]


def exported_losses(job: JobSpec, model: torch.nn.Module) -> list[float]:
    """Losses of a model on the first batch of a job on one rank, sorted by task."""
    parts = open_job(job)
    [part] = parts.schedule.rank_step(0, 0, 0, 1)
    batch = parts.data.batch(part)
    with torch.no_grad():
        sums = model(batch, MaskDraw(seed=job.seed, epoch=0)).double().numpy()
    targets = parts.data.targets[part.source].sum(axis=0)
    losses = sums * task_scale(targets) * len(targets)
    return [loss for _, loss in sorted(zip(parts.spec.tasks, losses.tolist(), strict=True))]


def test_a_run_begins_with_the_exported_model_and_resumes_to_the_bit(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    spec = make_spec("hetercsi", {"size": "tiny", "position": "grid"})
    source = spec.build(seed=77)
    save_model(tmp_path / "source" / "model", "hetercsi", {"size": "tiny", "position": "grid"}, source)
    job = small_job(
        small_store, "tuned", replace_model={**MODEL, "init": "source"}, data={"sets": ["R1"]},
        train=tuning(2, epochs=1), checkpoint={"every_steps": 1}, batching={"buckets": 1},
    )  # fmt: skip
    straight = begin(tmp_path / "tuned", job)
    assert ranks(1, work, str(straight.path)) == ["finished"]
    assert first_losses(straight) == pytest.approx(exported_losses(job, source), rel=1e-5)
    final = load_file(straight.export / "model.safetensors")
    for name, weight in source.state_dict().items():
        assert torch.equal(final[name], weight) == name.startswith(FROZEN), name

    broken = begin(tmp_path / "broken", job)
    broken.stop_request.touch()
    assert ranks(1, work, str(broken.path)) == ["stopped"]
    broken.stop_request.unlink()
    # Only the copy in the run's folder is needed.
    (tmp_path / "source" / "model" / "model.safetensors").unlink()
    assert ranks(1, work, str(broken.path)) == ["finished"]
    assert (broken.export / "model.safetensors").read_bytes() == (straight.export / "model.safetensors").read_bytes()
