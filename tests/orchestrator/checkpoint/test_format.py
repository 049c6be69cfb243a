"""Training states: atomic, checksummed, the damaged newest one passed over, any world size and ZeRO stage goes on."""

import errno
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from channels.errors import UserError
from orchestrator.checkpoint import format as checkpoints
from orchestrator.spec.job import JobSpec
from tests.jobs_for_tests import small_job

BEFORE, AFTER = 4, 3
STAGES = (0, 1, 2, 3)


def train(job: JobSpec, root: str, start: bool, steps: int, save: bool) -> dict[str, Any]:
    """Train from the newest state (or from the start); losses, final weights, and the state saved at the end."""
    import torch
    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.checkpoint.fragments import TrainingState
    from orchestrator.checkpoint.writer import CheckpointWriter
    from orchestrator.data.plan import make_schedule
    from orchestrator.data.reader import open_training_data
    from orchestrator.shard_cache.placement import SharedPlacement
    from orchestrator.training.engine import TrainingEngine
    from orchestrator.training.loader import StepLoader
    from samplers.batches import ScheduledBatches

    rank, world = dist.get_rank(), dist.get_world_size()
    spec = make_spec(job.model.name, job.model.options)
    catalogue, data = open_training_data(job.data, spec, job.seed)
    batches = ScheduledBatches(make_schedule(job, catalogue, data.flops), rank, world)
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    state = TrainingState(engine.deepspeed, rank, world)
    done, losses = 0, []
    if not start:
        found = checkpoints.newest_complete(Path(root), print)
        assert found is not None
        checkpoints.load(state, *found, job.fingerprint)
        batches.load_state_dict(found[1].sampler)
        done = found[1].step
    placement = SharedPlacement(data.store)
    saved = []
    with (
        CheckpointWriter(state, Path(root), keep=2, device=torch.device("cpu")) as writer,
        StepLoader(data, batches, placement, micro_batch=16, threads=1, prefetch=1) as loader,
    ):
        for batch, _ in zip(loader, range(steps), strict=False):
            losses.append(engine.step(batch, job.seed, lr=1e-3).losses)
            batches.consumed(batch.epoch, batch.step)
            done += 1
        if save:
            writer.begin(info_of(done, state.optimizer_step, batches.state_dict(), job, world))
            saved = writer.finish()
        dist.barrier()
    weights = {name: tensor.numpy() for name, tensor in engine.full_weights().items()}
    return {"losses": np.array(losses), "weights": weights, "saved": saved, "optimizer_step": state.optimizer_step}


def info_of(
    step: int, optimizer_step: int, sampler: dict[str, Any], job: JobSpec, world: int
) -> checkpoints.CheckpointInfo:
    return checkpoints.CheckpointInfo(
        schema=checkpoints.SCHEMA, step=step, optimizer_step=optimizer_step, seed=job.seed, world_size=world,
        zero_stage=job.train.zero_stage, fingerprint=job.fingerprint, sampler=sampler, train_seconds=1.5,
        epoch_totals=(1.0, 2, 3), mlflow_run_id=None, versions=checkpoints.versions(), files={},
    )  # fmt: skip


def job_of(store: Path, stage: int, precision: str = "fp32") -> JobSpec:
    return small_job(store, train={"zero_stage": stage, "precision": precision})


@pytest.fixture(scope="module")
def root_of(ranks: Any, small_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of the state that two ranks of a stage and precision saved after four steps; made once."""
    made: dict[tuple[int, str], Path] = {}

    def root(stage: int, precision: str = "fp32") -> Path:
        if (stage, precision) not in made:
            made[stage, precision] = tmp_path_factory.mktemp("run") / "checkpoints"
            results = ranks(
                2, train, job_of(small_store, stage, precision), str(made[stage, precision]), True, BEFORE, True
            )
            assert [(saved.step, saved.problem) for saved in results[0]["saved"]] == [(BEFORE, None)]
        return made[stage, precision]

    return root


@pytest.fixture(scope="module")
def undisturbed(ranks: Any, small_store: Path) -> Any:
    """Two ranks of a stage and precision that never save, over all the steps; made once."""
    made: dict[tuple[int, str], Any] = {}

    def result(stage: int, precision: str = "fp32") -> Any:
        if (stage, precision) not in made:
            job = job_of(small_store, stage, precision)
            made[stage, precision] = ranks(2, train, job, "unused", True, BEFORE + AFTER, False)[0]
        return made[stage, precision]

    return result


@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16_pure"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_same_world_goes_on_bit_for_bit(
    ranks: Any, small_store: Path, root_of: Any, undisturbed: Any, stage: int, precision: str
) -> None:
    expected = undisturbed(stage, precision)
    found = ranks(2, train, job_of(small_store, stage, precision), str(root_of(stage, precision)), False, AFTER, False)[
        0
    ]
    np.testing.assert_array_equal(found["losses"], expected["losses"][BEFORE:])
    assert found["optimizer_step"] == expected["optimizer_step"]
    for name, weight in expected["weights"].items():
        np.testing.assert_array_equal(found["weights"][name], weight, err_msg=name)


@pytest.mark.parametrize("saved", STAGES)
def test_any_world_and_any_stage_goes_on(
    ranks: Any, small_store: Path, root_of: Any, undisturbed: Any, saved: int
) -> None:
    """Every pair of stages at some world, and the stage itself at every world."""
    expected = undisturbed(saved)
    pairs = {(stage, (1, 2, 4)[(saved + stage) % 3]) for stage in STAGES} | {(saved, 1), (saved, 4)}
    for stage, world in sorted(pairs):
        found = ranks(world, train, job_of(small_store, stage), str(root_of(saved)), False, AFTER, False)[0]
        message = f"saved at stage {saved} by 2 ranks, resumed at stage {stage} by {world}"
        np.testing.assert_allclose(found["losses"], expected["losses"][BEFORE:], rtol=1e-6, err_msg=message)
        assert found["optimizer_step"] == BEFORE + AFTER
        for name, weight in expected["weights"].items():
            # Biases of keys have no gradient but rounding, which Adam makes large.
            np.testing.assert_allclose(found["weights"][name], weight, atol=4e-4, err_msg=f"{name}: {message}")


def test_bf16_goes_on_at_another_world(ranks: Any, small_store: Path, root_of: Any, undisturbed: Any) -> None:
    for stage in (1, 3):
        found = ranks(
            4, train, job_of(small_store, stage, "bf16_pure"), str(root_of(2, "bf16_pure")), False, AFTER, False
        )[0]
        np.testing.assert_allclose(found["losses"], undisturbed(2, "bf16_pure")["losses"][BEFORE:], rtol=1e-2)


def test_a_state_is_described_and_shared_out(root_of: Any, small_store: Path) -> None:
    from safetensors import safe_open

    folder = root_of(1) / f"step-{BEFORE:09d}"
    info = json.loads((folder / "checkpoint.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == sorted([*info["files"], "checkpoint.json"])
    assert (root_of(1) / "latest").read_text().strip() == folder.name
    assert info["world_size"] == 2 and info["zero_stage"] == 1 and info["optimizer_step"] == BEFORE
    assert {"torch", "deepspeed", "python"} <= info["versions"].keys()
    sizes = [size for size, _ in info["files"].values()]
    assert len(sizes) == 2 and max(sizes) < 1.2 * min(sizes)
    for name in info["files"]:
        with safe_open(folder / name, framework="pt") as file:
            assert all(file.get_slice(key).get_dtype() == "F32" for key in file.keys())  # noqa: SIM118


def save_often(job: JobSpec, root: str) -> list[int]:
    """Steps of the states that are there after each of three savings that keep two, and the count of all."""
    import torch
    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.checkpoint.fragments import TrainingState
    from orchestrator.checkpoint.writer import CheckpointWriter
    from orchestrator.training.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    world = dist.get_world_size()
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=3)
    state = TrainingState(engine.deepspeed, dist.get_rank(), world)
    seen = []
    with CheckpointWriter(state, Path(root), keep=2, device=torch.device("cpu")) as writer:
        for step in (1, 2, 3):
            seen += [saved.step for saved in writer.begin(info_of(step, 0, {}, job, world))]
        seen += [saved.step for saved in writer.finish()]
    return seen


def test_the_newest_are_kept_and_a_second_saving_waits_for_the_first(
    ranks: Any, small_store: Path, tmp_path: Path
) -> None:
    root = tmp_path / "checkpoints"
    assert ranks(2, save_often, small_job(small_store), str(root)) == [[1, 2, 3], []]
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-000000002", "step-000000003"]


def save_on_small_disk(job: JobSpec, root: str, filler: str) -> list[str | None]:
    """Save, fill the disk, try to save twice, free it, save again; what became of each."""
    import torch
    import torch.distributed as dist

    from models.registry import make_spec
    from orchestrator.checkpoint.fragments import TrainingState
    from orchestrator.checkpoint.writer import CheckpointWriter
    from orchestrator.training.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    world = dist.get_world_size()
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=3)
    state = TrainingState(engine.deepspeed, dist.get_rank(), world)
    problems = []
    with CheckpointWriter(state, Path(root), keep=2, device=torch.device("cpu")) as writer:
        for step in (1, 2, 3, 4):
            if dist.get_rank() == 0 and step == 2:
                fill(Path(filler))
            if dist.get_rank() == 0 and step == 4:
                Path(filler).unlink()
            dist.barrier()
            writer.begin(info_of(step, 0, {}, job, world))
            problems += [saved.problem for saved in writer.finish()]
            dist.barrier()
    return problems


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB; the test is left out where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_keeps_the_last_good_state(ranks: Any, small_store: Path, small_disk: Path) -> None:
    root = small_disk / "checkpoints"
    problems = ranks(2, save_on_small_disk, small_job(small_store), str(root), str(small_disk / "filler"))[0]
    assert problems[0] is None and problems[3] is None
    assert all(problem is not None and "disk full" in problem for problem in problems[1:3])
    assert sorted(path.name for path in root.iterdir()) == ["latest", "step-000000001", "step-000000004"]
    assert checkpoints.find_damage(root / "step-000000004") is None


def load_foreign(job: JobSpec, other: JobSpec, root: str) -> str:
    """What is said when a job meets the state of another."""
    from channels.errors import UserError
    from models.registry import make_spec
    from orchestrator.checkpoint.fragments import TrainingState
    from orchestrator.training.engine import TrainingEngine

    spec = make_spec(job.model.name, job.model.options)
    engine = TrainingEngine(spec.build(job.seed), job.train, device="cpu", tasks=len(spec.tasks))
    found = checkpoints.newest_complete(Path(root), print)
    assert found is not None
    try:
        checkpoints.load(TrainingState(engine.deepspeed, 0, 1), *found, other.fingerprint)
    except UserError as error:
        return str(error)
    return "loaded"


def test_foreign_states_are_refused(ranks: Any, small_store: Path, root_of: Any) -> None:
    job = job_of(small_store, 1)
    seed = job.model_copy(update={"seed": 4})
    assert "another job" in ranks(1, load_foreign, job, seed, str(root_of(1)))[0]
    wimamba = small_job(small_store, replace_model={"name": "wimamba", "size": "tiny"})
    assert "other parameters" in ranks(1, load_foreign, wimamba, job, str(root_of(1)))[0]


def test_world_stage_and_micro_batch_are_not_part_of_a_job(small_store: Path) -> None:
    job = small_job(small_store)
    changed = small_job(
        small_store, scale={"workers": 4}, train={"zero_stage": 3}, batching={"micro_batch": 2}
    )  # fmt: skip
    assert changed.fingerprint == job.fingerprint
    assert small_job(small_store, train={"lr": 2e-3}).fingerprint != job.fingerprint


@pytest.fixture
def two_states(root_of: Any, tmp_path: Path) -> Path:
    """Two complete states, as a run has them."""
    root = tmp_path / "checkpoints"
    shutil.copytree(root_of(1), root)
    newer = Path(shutil.copytree(root / f"step-{BEFORE:09d}", root / f"step-{BEFORE + 1:09d}"))
    checkpoints.write_info(newer, replace(checkpoints.read_info(newer), step=BEFORE + 1))
    assert checkpoints.find_damage(newer) is None
    return root


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "info", "list", "types", "outside", "number", "name"])
def test_a_damaged_newest_state_is_passed_over_loudly(two_states: Path, damage: str) -> None:
    newest = two_states / f"step-{BEFORE + 1:09d}"
    victim = next(newest.glob("*.safetensors"))
    content = bytearray(victim.read_bytes())
    info = json.loads((newest / "checkpoint.json").read_text())
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
        case "list":
            (newest / "checkpoint.json").write_text("[]")
        case "types":
            (newest / "checkpoint.json").write_text(json.dumps(info | {"files": "none"}))
        case "outside":
            good = checkpoints.read_info(newest)
            checkpoints.write_info(newest, replace(good, files={"../latest": (1, "0")}))
        case "number":
            (newest / "checkpoint.json").write_text(json.dumps(info | {"seed": info["seed"] + 1}))
        case "name":
            checkpoints.write_info(newest, replace(checkpoints.read_info(newest), step=BEFORE))
    warnings: list[str] = []
    found = checkpoints.newest_complete(two_states, warnings.append)
    assert found is not None and found[1].step == BEFORE
    assert len(warnings) == 1 and "is damaged" in warnings[0]
    checkpoints.set_aside_newer(two_states, found[0])
    checkpoints.prune(two_states, keep=1)
    assert sorted(path.name for path in two_states.glob("*step-*")) == [f"damaged-{newest.name}", found[0].name]


def test_a_file_that_cannot_be_read_is_damage(two_states: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoints, "file_digest", fail)
    warnings: list[str] = []
    assert checkpoints.newest_complete(two_states, warnings.append) is None
    assert len(warnings) == 2 and "Input/output error" in warnings[0]
    checkpoints.set_aside_newer(two_states, None)
    assert not list(two_states.glob("step-*"))


def test_a_state_of_another_version_is_no_damage(two_states: Path) -> None:
    newest = two_states / f"step-{BEFORE + 1:09d}"
    info = json.loads((newest / "checkpoint.json").read_text())
    del info["sha256"]
    (newest / "checkpoint.json").write_text(json.dumps(info | {"schema": 2}))
    with pytest.raises(UserError, match="schema 2, this version reads"):
        checkpoints.newest_complete(two_states, print)
    checkpoints.write_info(newest, replace(checkpoints.read_info(two_states / f"step-{BEFORE:09d}"), schema=99))
    with pytest.raises(UserError, match="schema 99, this version reads"):
        checkpoints.newest_complete(two_states, print)


def test_unfinished_states_are_neither_found_nor_left(tmp_path: Path) -> None:
    unfinished = checkpoints.unfinished_folder(tmp_path, 7)
    unfinished.mkdir()
    (unfinished / "state-00000-of-00002.safetensors").write_bytes(b"half")
    assert checkpoints.newest_complete(tmp_path, print) is None
    checkpoints.remove_unfinished(tmp_path)
    assert not unfinished.exists()
    assert checkpoints.newest_complete(tmp_path / "none", print) is None
