"""Shares of states that lie in the memory of several machines: which state is complete, and who lacks what of it.

Ranks that start again may find themselves on other machines than before; each machine needs all shares to read from.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

from orchestrator.checkpoint.format import CheckpointInfo
from orchestrator.checkpoint.memory import Share, adopt, content_of, info_of, mark_as, newest_of, shares_in


class Machines:
    """Where the ranks are. folder: in this machine's memory. names: of the machine of each rank.

    All ranks make the same calls.
    """

    def __init__(self, folder: Path, rank: int, names: Sequence[str]) -> None:
        self.folder, self._rank, self._own = folder, rank, names[rank]
        self.first = {name: names.index(name) for name in names}
        """Lowest rank of each machine, which speaks for it."""
        self._newest: list[Share] = []
        self._holders: dict[str, list[str]] = {}

    def newest(self) -> CheckpointInfo | None:
        """The newest state of which every share lies in the memory of a machine."""
        own = shares_in(self.folder) if self.first[self._own] == self._rank else []
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
        """Bring what machines lack of the newest state; False where one has no room for it."""
        if len(self.first) == 1:
            return True
        lacking = [share for share in self._newest if self._own not in self._holders[share.name]]
        room = {}
        if self.first[self._own] == self._rank:
            with suppress(OSError):
                room = {share.name: adopt(self.folder, share) for share in lacking}
        has_room = len(room) == len(lacking) or self.first[self._own] != self._rank
        agreed = [has_room] * dist.get_world_size()
        dist.all_gather_object(agreed, has_room)
        if not all(agreed):
            return False
        # NCCL sends nothing that lies in host memory.
        group = dist.new_group(backend="gloo")
        for share in self._newest:
            holders = self._holders[share.name]
            sender = self.first[holders[0]]
            for name, receiver in self.first.items():
                if name in holders:
                    continue
                if self._rank == sender:
                    dist.send(content_of(self.folder, share.name, share.size), receiver, group)
                elif self._rank == receiver:
                    dist.recv(room[share.name], sender, group)
                    mark_as(self.folder, share)
        dist.barrier(group)
        dist.destroy_process_group(group)
        return True


def _key(share: Share) -> tuple[tuple[str, int], str]:
    return share.state, share.name
