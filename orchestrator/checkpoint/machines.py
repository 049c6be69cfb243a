"""Shares of states that lie in the memory of several machines: which state is complete, and who lacks what of it.

Ranks that start again may find themselves on other machines than before; each machine needs all shares to read from.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist
from torch import Tensor

from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.free_memory import ROOM, room_in
from orchestrator.checkpoint.memory import Share, adopt, content_of, info_of, mark_as, newest_of, remove, shares_in


class Machines:
    """Where the ranks are. folder: in this machine's memory. names: of the machine of each rank.

    All ranks make the same calls.
    """

    def __init__(self, folder: Path, rank: int, names: Sequence[str]) -> None:
        self.folder, self._rank, self._own = folder, rank, names[rank]
        self.first = {name: names.index(name) for name in names}
        """Lowest rank of each machine, which speaks for it."""
        self.here = [number for number, name in enumerate(names) if name == self._own]
        """Ranks of this machine."""
        self._newest: list[Share] = []
        self._holders: dict[str, list[str]] = {}
        self._fetched: list[Share] = []
        self._room: dict[str, Tensor] = {}

    def newest(self) -> CheckpointInfo | None:
        """The newest state of which every share lies in the memory of a machine."""
        own = shares_in(self.folder) if self._speaks else []
        found = [own] * dist.get_world_size()
        dist.all_gather_object(found, own)
        held = {name: found[rank] for name, rank in self.first.items()}
        self._newest = newest_of(share for shares in held.values() for share in shares)
        self._holders = {
            share.name: [name for name, shares in held.items() if (share.state, share.name) in map(_key, shares)]
            for share in self._newest
        }
        return info_of(self._newest) if self._newest else None

    def fetch(self) -> bool:
        """Bring every machine all that it lacks of the newest state; False where one has no room for it.

        What was brought stays until :meth:`release`.
        """
        if len(self.first) == 1:
            return True
        lacking = [share for share in self._newest if self._own not in self._holders[share.name]]
        try:
            has_room = self._all(not self._speaks or self._make_room(lacking))
            if has_room:
                self._receive()
        except BaseException:
            self._remove_fetched()
            raise
        if not has_room:
            self._remove_fetched()
        return has_room

    def release(self) -> None:
        """All ranks have read the state: what was brought goes, and the machines that had it keep theirs."""
        dist.barrier()
        self._remove_fetched()

    @property
    def _speaks(self) -> bool:
        return self.first[self._own] == self._rank

    def _make_room(self, lacking: list[Share]) -> bool:
        """Whether this machine has room for what it lacks, which is made."""
        if sum(share.size for share in lacking) > ROOM * room_in(self.folder):
            return False
        self._fetched = lacking
        with suppress(OSError):
            self._room = {share.name: adopt(self.folder, share) for share in lacking}
        return len(self._room) == len(lacking)

    def _all(self, own: bool) -> bool:
        found = [own] * dist.get_world_size()
        dist.all_gather_object(found, own)
        return all(found)

    def _receive(self) -> None:
        # NCCL sends nothing that lies in host memory. Each rank of a group has a connection to each other one.
        group = dist.new_group(sorted(self.first.values()), backend="gloo")
        if self._speaks:
            for share in self._newest:
                self._exchange(share, group)
        dist.barrier()
        if self._speaks:
            dist.destroy_process_group(group)

    def _exchange(self, share: Share, group: dist.ProcessGroup) -> None:
        holders = self._holders[share.name]
        sender = self.first[holders[0]]
        for name, receiver in self.first.items():
            if name in holders:
                continue
            if self._rank == sender:
                dist.send(content_of(self.folder, share.name, share.size), receiver, group)
            elif self._rank == receiver:
                dist.recv(self._room[share.name], sender, group)
                mark_as(self.folder, share)

    def _remove_fetched(self) -> None:
        for share in self._fetched:
            remove(self.folder, share)
        self._fetched = []
        self._room.clear()


def _key(share: Share) -> tuple[tuple[str, int], str]:
    return share.state, share.name
