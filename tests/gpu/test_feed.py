"""What a device makes of a batch: channels, noise, masks and counts are those of the host, and the host waits for none.

With ``--device cuda`` everything is compared with the CPU; on a CPU the same code is compared with numpy and itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from channels.augment import AUGMENTATIONS, Augmentation
from channels.signal import add_noise, noise_states, normal_tables, sample_keys, unit_power
from models.interface import MaskDraw, PackedBatch, TokenBatch
from models.layers.masking import TASKS, MaskRatios, kept_tokens, make_view
from models.layers.packed_views import packed_views
from models.registry import make_spec
from models.snapshot.masking import hide_tokens, mask_tokens
from orchestrator.data import device_signal
from orchestrator.data.device_signal import NormalTables, Runs
from orchestrator.data.reader import TrainingData, open_training_data
from orchestrator.data.stored_batch import StoredBatch
from orchestrator.shard_cache.placement import SharedPlacement
from orchestrator.spec.data import DataSection
from orchestrator.training.collectives import gather_rows
from orchestrator.training.loader import StepLoader
from samplers.batches import ScheduledBatches
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice

pytestmark = pytest.mark.gpu

MODELS: dict[str, dict[str, Any]] = {
    "hetercsi": {"size": "tiny"},
    "wimamba": {"patches": [4]},
    "lwm": {"size": "tiny", "patches": [4]},
}
FORMS = [("hetercsi", False), ("hetercsi", True), ("wimamba", False), ("wimamba", True), ("lwm", False)]
IDS = ["hetercsi", "hetercsi packed", "wimamba", "wimamba packed", "lwm"]
DRAW = MaskDraw(seed=7, epoch=3)
RATIOS = MaskRatios()


@pytest.fixture(scope="module")
def target(device: str) -> torch.device:
    return torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")


@pytest.fixture(scope="module")
def tables(target: torch.device) -> NormalTables:
    return NormalTables.on(target)


@contextmanager
def host_never_waits(device: torch.device) -> Iterator[None]:
    """On CUDA whatever makes the host wait for the device raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def opened(
    store: Path,
    name: str,
    *,
    packed: bool = False,
    snr_db: float | None = 20.0,
    augment: tuple[Augmentation, ...] = (),
) -> TrainingData:
    section = DataSection(store=store, snr_db=snr_db, augment=augment)
    return open_training_data(section, make_spec(name, MODELS[name]), 3, packed=packed)[1]


def mixed_slice(samples: int = 40) -> Slice:
    """Samples of all four sets, one of which has partial patches; the last one is a filler."""
    weight = np.ones(samples, np.float32)
    weight[-1] = 0
    index = np.arange(samples, dtype=np.int64)
    return Slice(0, 4, (index % 4).astype(np.int32), index * 7 % 45, weight, epoch=5)


def stored_on(device: torch.device, data: TrainingData, tables: NormalTables) -> StoredBatch:
    stored = data.stored_batch(mixed_slice(), tables, pinned=device.type == "cuda")
    return stored.to(device, non_blocking=True)


def assert_same(found: TokenBatch | PackedBatch, expected: TokenBatch | PackedBatch) -> None:
    assert type(found) is type(expected)
    for field in fields(expected):
        ours, theirs = getattr(found, field.name), getattr(expected, field.name)
        if isinstance(theirs, torch.Tensor):
            assert ours.dtype == theirs.dtype and torch.equal(ours.cpu(), theirs), field.name
        else:
            assert ours == theirs, field.name


def assert_same_tree(found: Any, expected: Any, name: str = "") -> None:
    """Equal tensors in equal places of two dataclasses."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found.cpu(), expected), name
    elif hasattr(expected, "__dataclass_fields__"):
        for field in fields(expected):
            assert_same_tree(getattr(found, field.name), getattr(expected, field.name), f"{name}.{field.name}")
    else:
        assert found == expected, name


@pytest.mark.parametrize("snr_db", [20.0, 5.0, None], ids=["20 dB", "5 dB", "clean"])
@pytest.mark.parametrize(("name", "packed"), FORMS, ids=IDS)
def test_a_batch_is_that_of_the_host(
    name: str, packed: bool, snr_db: float | None, target: torch.device, store: Path, tables: NormalTables
) -> None:
    data = opened(store, name, packed=packed, snr_db=snr_db)
    made = stored_on(target, data, tables).prepared()
    assert made.tokens.device.type == target.type
    assert_same(made, data.batch(mixed_slice()))


@pytest.mark.parametrize(("name", "packed"), FORMS, ids=IDS)
@pytest.mark.parametrize("augment", [(), AUGMENTATIONS], ids=["as stored", "augmented"])
def test_the_host_waits_for_nothing_while_a_batch_is_made(
    name: str,
    packed: bool,
    augment: tuple[Augmentation, ...],
    target: torch.device,
    store: Path,
    tables: NormalTables,
) -> None:
    data = opened(store, name, packed=packed, augment=augment)
    host = data.stored_batch(mixed_slice(), tables, pinned=target.type == "cuda")
    # Twice: what the first call of an operation loads may wait.
    made = host.to(target, non_blocking=True).prepared()
    with host_never_waits(target):
        made = host.to(target, non_blocking=True).prepared()
    assert_same(made, data.batch(mixed_slice()))


def test_tables_arrive_whole(target: torch.device, tables: NormalTables) -> None:
    radius, turn = normal_tables()
    assert torch.equal(tables.radius.cpu(), torch.from_numpy(radius))
    assert torch.equal(tables.turn.cpu(), torch.from_numpy(turn))


def test_noise_is_that_of_the_host(target: torch.device, tables: NormalTables) -> None:
    """Some 10^6 numbers of a published scale, amplitudes seven decades apart."""
    random = np.random.default_rng(1)
    channel = random.normal(size=(8, 24, 64, 32, 2)).astype(np.float32).view(np.complex64)[..., 0]
    channel *= np.float32(10.0) ** np.arange(-6, 2, dtype=np.float32)[:, None, None, None]
    keys = sample_keys("S1", "train", np.arange(8))
    expected = add_noise(unit_power(channel), 20.0, 5, keys, 2)

    runs = Runs(((8, channel[0].size),))
    parts = torch.from_numpy(channel.view(np.float32).reshape(-1, 2)).to(target)
    sample = torch.arange(8, device=target).repeat_interleave(channel[0].size)
    index = torch.arange(channel[0].size, device=target).repeat(8)
    states = torch.from_numpy(noise_states(5, keys, 2).view(np.int64)).to(target)
    normal = device_signal.unit_power(parts, sample, runs)
    found = device_signal.add_noise(normal, sample, index, runs, 20.0, states, tables)
    np.testing.assert_array_equal(found.cpu().numpy(), expected.view(np.float32).reshape(-1, 2))


@pytest.mark.parametrize("task", TASKS)
def test_padded_masks_and_counts_are_those_of_the_host(task: str, target: torch.device, store: Path) -> None:
    host = opened(store, "hetercsi").batch(mixed_slice())
    assert isinstance(host, TokenBatch)
    there = host.to(target)
    expected = make_view(task, host, DRAW, RATIOS)
    make_view(task, there, DRAW, RATIOS)
    with host_never_waits(target):
        found = make_view(task, there, DRAW, RATIOS)
    assert torch.equal(kept_tokens(there.grid, RATIOS).cpu(), kept_tokens(host.grid, RATIOS))
    assert torch.equal(found.masked.cpu(), expected.masked)
    assert expected.present is not None and found.present is not None
    assert torch.equal(found.present.cpu(), expected.present)
    # Behind a sample's last kept token the indices mean nothing.
    assert torch.equal(found.kept.cpu()[expected.present], expected.kept[expected.present])


def test_packed_masks_and_counts_are_those_of_the_host(target: torch.device, store: Path) -> None:
    host = opened(store, "hetercsi", packed=True).batch(mixed_slice())
    assert isinstance(host, PackedBatch)
    there = host.to(target)
    packed_views(TASKS, there, DRAW, RATIOS)
    with host_never_waits(target):
        found = packed_views(TASKS, there, DRAW, RATIOS)
    assert_same_tree(found, packed_views(TASKS, host, DRAW, RATIOS))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("values", ["published", "paper"])
def test_snapshot_masks_are_those_of_the_host(values: str, packed: bool, target: torch.device, store: Path) -> None:
    """Bit for bit, but for the paper's normal values: their inverse error function rounds as the device does."""
    data = opened(store, "wimamba")
    host = replace(data, packed=packed).batch(mixed_slice())
    policy = make_spec("wimamba", {"patches": [4], "mask_values": values}).masking  # type: ignore[attr-defined]
    there = host.to(target)
    mask_tokens(there, DRAW, policy)
    hide_tokens(there, 5, policy)
    with host_never_waits(target):
        found, hidden = mask_tokens(there, DRAW, policy), hide_tokens(there, 5, policy)
    expected, expected_hidden = mask_tokens(host, DRAW, policy), hide_tokens(host, 5, policy)
    assert torch.equal(found.masked.cpu(), expected.masked)
    assert torch.equal(hidden.masked.cpu(), expected_hidden.masked)
    assert torch.equal(hidden.tokens.cpu(), expected_hidden.tokens)
    if values == "published":
        assert torch.equal(found.tokens.cpu(), expected.tokens)
    else:
        torch.testing.assert_close(found.tokens.cpu(), expected.tokens, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "packed"), FORMS, ids=IDS)
def test_the_loader_feeds_the_device_the_batches_of_the_host(
    name: str, packed: bool, target: torch.device, store: Path
) -> None:
    section = DataSection(store=store)
    catalogue, data = open_training_data(section, make_spec(name, MODELS[name]), 3, packed=packed)
    plan = make_plan(catalogue, strategy="packed" if packed else "global", batch=32, partitions=4)
    schedule = Schedule(catalogue, plan, seed=1, partitions=4, epochs=1)

    def steps(where: torch.device) -> list[Any]:
        batches = ScheduledBatches(schedule, 0, 2)
        placement = SharedPlacement(data.store)
        with StepLoader(data, batches, placement, micro_batch=6, threads=2, prefetch=2, device=where) as loader:
            return [step for step, _ in zip(loader, range(4), strict=False)]

    found, expected = steps(target), steps(torch.device("cpu"))
    assert len(found) == 4
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours.micro_batches) == len(theirs.micro_batches) == 3
        for micro, other in zip(ours.micro_batches, theirs.micro_batches, strict=True):
            if target.type == "cuda":
                assert micro.samples.channels.is_pinned() and micro.samples.keys.is_pinned()
            assert_same(micro.on(target), other.samples)


@pytest.mark.usefixtures("one_rank")
def test_the_host_waits_for_an_exchange_only_when_it_reads(target: torch.device) -> None:
    rows = np.random.default_rng(0).normal(size=(3, 9))
    gather_rows(rows, target)()
    with host_never_waits(target):
        read = gather_rows(rows, target)
    np.testing.assert_array_equal(read(), rows[None])
