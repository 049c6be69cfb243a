"""States in the memory of a machine: whenever a rank ends, one that is common to all is there."""

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.checkpoint import machines as machines_module
from orchestrator.checkpoint import memory_keeper
from orchestrator.checkpoint.format import SCHEMA, CheckpointInfo
from orchestrator.checkpoint.fragments import MOMENTS, WEIGHT, Fragment
from orchestrator.checkpoint.free_memory import held_in
from orchestrator.checkpoint.machines import Machines
from orchestrator.checkpoint.memory import MARK, MemoryStates, info_of, newest_of, shares_in
from orchestrator.checkpoint.memory_keeper import MOST_STEPS, steps_between
from orchestrator.checkpoint.state_files import HostCopy, StateReader

INFO = CheckpointInfo(
    schema=SCHEMA, step=0, optimizer_step=0, seed=1, world_size=2, zero_stage=2, fingerprint="f", sampler={"epoch": 0},
    train_seconds=1.0, epoch_totals=(1.0, 2, 3), mlflow_run_id=None, versions={}, files={},
)  # fmt: skip
KINDS = (WEIGHT, *MOMENTS)


class Share:
    """Half of a parameter of six elements, which has the number of the step everywhere."""

    def __init__(self, rank: int) -> None:
        self.fragment = Fragment("p", 3 * rank, {kind: torch.zeros(3) for kind in KINDS})

    def share(self) -> list[Fragment]:
        return [self.fragment]

    def train(self, step: int) -> None:
        for tensor in self.fragment.tensors.values():
            tensor.fill_(step)


class Ranks:
    """Two ranks that save in step."""

    def __init__(self, folder: Path, world: int = 2) -> None:
        self.shares: list[Any] = [Share(rank) for rank in range(world)]
        group = uuid.uuid4().hex
        self.states = [
            MemoryStates(folder, share, rank, world, group, clears=range(world) if rank == 0 else ())
            for rank, share in enumerate(self.shares)
        ]

    def save(self, step: int, *ranks: int) -> None:
        for rank in ranks:
            self.shares[rank].train(step)
            self.states[rank].save(replace(INFO, step=step, world_size=len(self.states)))


def newest_in_memory(folder: Path) -> CheckpointInfo | None:
    shares = newest_of(shares_in(folder))
    return info_of(shares) if shares else None


def content(folder: Path, info: CheckpointInfo) -> set[float]:
    """All numbers of a state."""
    whole = Fragment("p", 0, {kind: torch.empty(6) for kind in KINDS})
    with StateReader([folder / name for name in info.files]) as reader:
        reader.fill(whole)
    return {float(value) for tensor in whole.tensors.values() for value in tensor}


@settings(max_examples=50)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=5))
def test_after_any_attempts_the_newest_common_state_is_there(
    tmp_path_factory: pytest.TempPathFactory, attempts: list[int]
) -> None:
    """Each attempt saves so many states together, then one rank saves and the other is killed before."""
    folder = tmp_path_factory.mktemp("memory")
    common = 0
    for number, together in enumerate(attempts):
        ranks = Ranks(folder)
        found = newest_in_memory(folder)
        assert (found.step if found else 0) == common
        if found is not None:
            assert content(folder, found) == {float(common)}
            for states in ranks.states:
                states.go_on_from(found)
        for step in range(common + 1, common + together + 1):
            ranks.save(step, 0, 1)
        common += together
        ranks.save(common + 1, number % 2)
    found = newest_in_memory(folder)
    assert (found.step if found else 0) == common
    if found is not None:
        assert content(folder, found) == {float(common)} and found.sampler == INFO.sampler


def test_a_copy_that_was_cut_off_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(tmp_path)
    ranks.save(1, 0, 1)
    ranks.save(2, 0, 1)

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    ranks.save(3, 0)
    monkeypatch.setattr(HostCopy, "take", killed)
    with pytest.raises(KeyboardInterrupt):
        ranks.save(3, 1)
    found = newest_in_memory(tmp_path)
    assert found is not None and found.step == 2 and content(tmp_path, found) == {2.0}


def test_another_number_of_ranks_goes_on_and_clears_away_what_was_before(tmp_path: Path) -> None:
    (tmp_path / "owner.lock").touch()
    Ranks(tmp_path).save(7, 0, 1)
    alone = Ranks(tmp_path, world=1)
    found = newest_in_memory(tmp_path)
    assert found is not None and (found.step, found.world_size) == (7, 2)
    alone.save(8, 0)
    assert len(list(tmp_path.glob(f"*{MARK}"))) == 3
    alone.save(9, 0)
    assert {path.name[:19] for path in tmp_path.iterdir()} == {"owner.lock", "rank-00000-of-00001"}


def test_a_rank_without_a_share_writes_files_without_tensors(tmp_path: Path) -> None:
    copy = HostCopy()
    copy.take([])
    size, _ = copy.write(tmp_path / "none.safetensors")
    assert size == copy.size == (tmp_path / "none.safetensors").stat().st_size
    with StateReader([tmp_path / "none.safetensors"]) as reader:
        assert reader.sizes() == {}
    ranks = Ranks(tmp_path)
    ranks.shares[1].fragment = Fragment("p", 0, {kind: torch.zeros(6) for kind in KINDS})
    ranks.shares[0].share = lambda: []
    ranks.save(4, 0, 1)
    found = newest_in_memory(tmp_path)
    assert found is not None and found.step == 4 and content(tmp_path, found) == {4.0}


def test_nothing_is_nothing(tmp_path: Path) -> None:
    assert newest_in_memory(tmp_path) is None
    Ranks(tmp_path).save(1, 0)
    assert newest_in_memory(tmp_path) is None


def test_copies_take_a_hundredth_of_the_time_at_most() -> None:
    assert steps_between(0.001, 0.1) == 1 and steps_between(0.0011, 0.1) == 2 and steps_between(0.5, 0.1) == 500
    assert steps_between(0.0, 0.0) == 1 and steps_between(1.0, 0.0) == MOST_STEPS


def keep(folder: str, copy_s: float, room: float) -> tuple[list[int], str | None]:
    """On a rank: which of 30 states are kept, by a clock of which a step takes 10 ms. copy_s: of a copy, on rank 0."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    now = [0.0]
    state: Any = Share(rank)

    class Slow:
        def save(self, info: CheckpointInfo) -> None:
            now[0] += copy_s * (rank + 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_keeper.time, "perf_counter", lambda: now[0])
        patch.setattr(memory_keeper, "ROOM", room)
        keeper, problem = memory_keeper.open_memory(Path(folder), state, rank, world, torch.device("cpu"))
        if keeper is None:
            return [], problem
        patch.setattr(keeper, "_states", Slow())
        kept = []
        for step in range(1, 31):
            now[0] += 0.01
            if keeper.is_due(step):
                with pytest.MonkeyPatch.context() as alone:
                    alone.setattr(memory_keeper.dist, "all_reduce", None)
                    keeper.save(replace(INFO, step=step))
                kept.append(step)
            keeper.agree()
    return kept, problem


def test_all_ranks_keep_the_same_states_as_often_as_the_slowest_may(ranks: Any, tmp_path: Path) -> None:
    cheap, dear, none = (ranks(2, keep, str(tmp_path), *how) for how in ((2e-5, 0.5), (1.8e-4, 0.5), (2e-5, 0.0)))
    assert cheap == [(list(range(1, 31)), None)] * 2
    assert dear == [([*range(1, 7), 10, 14, 18, 22, 26, 30], None)] * 2
    assert none == [([], "0 MiB take more than half of what is free")] * 2


def open_twice(folder: str) -> list[str | None]:
    """On a rank: why states of three sevenths of the memory are not kept, before and once they are there."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    state: Any = Share(rank)
    state.fragment = Fragment("p", rank << 16, {kind: torch.zeros(1 << 16) for kind in KINDS})
    memory = world * 7 << 19
    problems = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_keeper, "room_in", lambda folder: memory - held_in(folder))
        for step in (1, 3):
            keeper, problem = memory_keeper.open_memory(Path(folder), state, rank, world, torch.device("cpu"))
            problems.append(problem)
            for later in (0, 1):
                assert keeper is not None
                keeper.save(replace(INFO, step=step + later))
            torch.distributed.barrier()
    return problems


def test_states_that_are_there_already_leave_room_for_themselves(ranks: Any, tmp_path: Path) -> None:
    assert ranks(2, open_twice, str(tmp_path)) == [[None, None]] * 2


def leave_and_fetch(folders: list[str]) -> list[tuple[int, set[float]]]:
    """On a rank of two machines: states of three starts, after each of which the ranks have changed machines."""
    rank, found = torch.distributed.get_rank(), []
    for number in range(3):
        names = folders if number % 2 == 0 else folders[::-1]
        folder = Path(names[rank])
        machines = Machines(folder, rank, names)
        info = machines.newest()
        state: Any = Share(rank)
        states = MemoryStates(folder, state, rank, 2, f"start {number}", clears=[rank])
        if info is not None:
            assert machines.fetch()
            assert len(newest_of(shares_in(folder))) == 2
            found.append((info.step, content(folder, info)))
            machines.release()
            assert newest_of(shares_in(folder)) == []
            assert machines.newest() == info, "those who had it keep it"
            states.go_on_from(info)
        for step in range(10 * number + 1, 10 * number + 4 + (rank == 0)):
            state.train(step)
            states.save(replace(INFO, step=step))
        assert {path.name[:10] for path in folder.iterdir()} == {f"rank-{rank:05d}"}, "what others left is gone"
        torch.distributed.barrier()
    return found


def test_ranks_that_find_themselves_on_other_machines_fetch_what_lies_there(ranks: Any, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        Path(folder).mkdir()
    assert ranks(2, leave_and_fetch, folders) == [[(3, {3.0}), (13, {13.0})]] * 2


def fetch_without_room(folders: list[str]) -> list[bool]:
    """On a rank of two machines of which the second one has no room: first by what is free, then when it is taken."""
    rank, found = torch.distributed.get_rank(), []
    folder = Path(folders[rank])
    names = ["one", "two"]
    MemoryStates(folder, cast(Any, Share(rank)), rank, 2, "start").save(INFO)
    before = sorted(path.name for path in folder.iterdir())

    def fail(folder: Path, share: Any) -> None:
        (folder / share.name).touch()
        raise OSError

    for patched, instead in (("room_in", lambda folder: 0), ("adopt", fail)):
        machines = Machines(folder, rank, names)
        assert machines.newest() is not None
        with pytest.MonkeyPatch.context() as patch:
            if rank == 1:
                patch.setattr(machines_module, patched, instead)
            found.append(machines.fetch())
        assert sorted(path.name for path in folder.iterdir()) == before
    return found


def test_where_a_machine_has_no_room_nothing_is_left_anywhere(ranks: Any, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        Path(folder).mkdir()
    assert ranks(2, fetch_without_room, folders) == [[False, False]] * 2


def fetch_by_two_of_four(folders: list[str]) -> tuple[list[int], set[float]]:
    """On one of four ranks of two machines: who is connected for what is sent, and what then lies on the machine."""
    rank = torch.distributed.get_rank()
    folder = Path(folders[rank])
    share: Any = Share(rank % 2)
    if rank > 1:
        share.share = lambda: []
    share.train(5)
    MemoryStates(folder, share, rank, 4, "start").save(replace(INFO, step=5, world_size=4))
    torch.distributed.barrier()
    machines = Machines(folder, rank, folders)
    info = machines.newest()
    assert info is not None
    connected: list[int] = []
    new_group = torch.distributed.new_group
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            machines_module.dist,
            "new_group",
            lambda among=None, **how: connected.extend(among or range(4)) or new_group(among, **how),
        )
        assert machines.fetch()
    found = content(folder, info)
    machines.release()
    return connected, found


def test_one_rank_of_a_machine_fetches_for_all_of_it(ranks: Any, tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two", "two", "two")]
    for folder in folders:
        Path(folder).mkdir(exist_ok=True)
    assert ranks(4, fetch_by_two_of_four, folders) == [([0, 1], {5.0})] * 4
