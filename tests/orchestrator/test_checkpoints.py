"""Training states: atomic, checksummed, the damaged newest one passed over, foreign ones refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import checkpoints
from orchestrator.config import JobSpec
from tests.jobs_for_tests import small_job


def info_of(step: int, job: JobSpec, world: int) -> checkpoints.CheckpointInfo:
    return checkpoints.CheckpointInfo(
        schema=checkpoints.SCHEMA, step=step, world_size=world, zero_stage=job.train.zero_stage,
        fingerprint=job.fingerprint, sampler={"step": step}, train_seconds=1.5, epoch_totals=(1.0, 2, 3), files={},
    )  # fmt: skip


def save_three(job: JobSpec, root: str) -> dict[str, Any]:
    """Save steps 1 to 3 keeping two, change the weights, load step 3; weights and messages of refusals."""
    import torch
    import torch.distributed as dist

    from channels.errors import UserError
    from models.registry import make_spec
    from orchestrator.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=3)
    world = dist.get_world_size()
    for step in (1, 2, 3):
        checkpoints.save(engine, Path(root), info_of(step, job, world), keep=2)
    before = {name: tensor.clone() for name, tensor in engine.full_weights().items()}
    with torch.no_grad():
        for parameter in engine.deepspeed.module.parameters():
            parameter.add_(1.0)
    path, info = checkpoints.newest_complete(Path(root), print) or (None, None)
    assert path is not None and info is not None
    refusals = []
    for changed, stage in (
        (replace(info, fingerprint="other"), job.train.zero_stage),
        (replace(info, world_size=7), job.train.zero_stage),
        (info, 3),
    ):
        try:
            checkpoints.load(engine, path, changed, job.fingerprint, stage)
        except UserError as error:
            refusals.append(str(error))
    checkpoints.load(engine, path, info, job.fingerprint, job.train.zero_stage)
    after = engine.full_weights()
    same = all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return {"step": info.step, "same": same, "refusals": refusals}


@pytest.fixture(scope="module")
def saved(ranks: Any, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("run") / "checkpoints"
    results = ranks(2, save_three, small_job(small_store, train={"zero_stage": 2}), str(root))
    return root, results[0]


def test_save_keeps_the_newest_and_load_restores(saved: tuple[Path, dict[str, Any]]) -> None:
    root, result = saved
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-000000002", "step-000000003"]
    assert (root / "latest").read_text().strip() == "step-000000003"
    assert result["step"] == 3 and result["same"]
    info = json.loads((root / "step-000000003" / "checkpoint.json").read_text())
    assert sum("optim_states" in name for name in info["files"]) == 2


def test_foreign_states_are_refused(saved: tuple[Path, dict[str, Any]]) -> None:
    job, world, stage = saved[1]["refusals"]
    assert "another job" in job and "saved by 7 ranks" in world and "ZeRO stage 2, now it is 3" in stage


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "info"])
def test_a_damaged_newest_state_is_passed_over_loudly(
    saved: tuple[Path, dict[str, Any]], tmp_path: Path, damage: str
) -> None:
    import shutil

    root = tmp_path / "checkpoints"
    shutil.copytree(saved[0], root)
    newest = root / "step-000000003"
    victim = next(newest.rglob("*optim_states.pt"))
    content = bytearray(victim.read_bytes())
    match damage:
        case "flip":
            content[len(content) // 2] ^= 1
            victim.write_bytes(content)
        case "truncate":
            victim.write_bytes(content[:-1])
        case "remove":
            victim.unlink()
        case "info":
            (newest / "checkpoint.json").write_text("{")
    warnings: list[str] = []
    found = checkpoints.newest_complete(root, warnings.append)
    assert found is not None and found[1].step == 2
    assert len(warnings) == 1 and "step-000000003 is damaged" in warnings[0]


def test_nothing_saved_is_nothing_found(tmp_path: Path) -> None:
    assert checkpoints.newest_complete(tmp_path / "none", print) is None
