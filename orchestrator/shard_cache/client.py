"""A node's cache from a rank's side: a Ray actor, made where none lives and made again where it died."""

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.errors import UserError
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.store import CacheCounts

LIVES = 10
"""Caches that one call may see die before it gives up."""
PAUSE_S = 0.3
LEASES_AT_ONCE = 128
"""Steps that may wait for their shards at the same time on a node."""


class NodeCacheClient:
    """Calls of one rank to the cache of its node. Thread safe.

    The actor belongs to the rank that made it and ends with it. A rank whose call finds it dead makes the next one over
    the same folder and tells it again where it is and what it has leased, so nothing that is being read is lost.
    """

    def __init__(self, settings: CacheSettings, run: str, node: str, rank: int) -> None:
        self._settings = settings
        self._actor_name = f"wavetrain-cache/{run}/{node}"
        self._node = node
        self._rank = rank
        self._lock = threading.RLock()
        self._leases: dict[str, tuple[str, ...]] = {}
        self._told: tuple[int, Mapping[int, Sequence[str]]] | None = None
        self._actor: Any = None
        # An actor ends when its maker drops the handle, even if a later look-up by name gives the same actor.
        self._handles: list[Any] = []
        self._folder: Path | None = None
        self._call("counts")

    @property
    def folder(self) -> Path:
        """Where the copies lie; the same for the life of the rank."""
        assert self._folder is not None
        return self._folder

    def update(self, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """See :meth:`NodeCache.update`."""
        with self._lock:
            self._told = (position, epochs)
        self._call("update", self._rank, position, epochs)

    def acquire(self, lease: str, epoch: int, files: Sequence[str]) -> bool:
        """See :meth:`NodeCache.acquire`."""
        while True:
            actor, whole = self._call("acquire", self._rank, lease, epoch, files)
            with self._lock:
                # A lease of a cache that died meanwhile is worth nothing.
                if actor is self._actor:
                    self._leases[lease] = tuple(files)
                    return bool(whole)

    def release(self, lease: str) -> None:
        """See :meth:`NodeCache.release`."""
        with self._lock:
            del self._leases[lease]
        self._call("release", self._rank, lease)

    def counts(self) -> CacheCounts:
        """See :meth:`NodeCache.counts`."""
        counts: CacheCounts = self._call("counts")[1]
        return counts

    def discard(self) -> None:
        """See :meth:`NodeCache.discard`; the actor ends."""
        import ray

        actor, _ = self._call("discard")
        ray.kill(actor)

    def _call(self, method: str, *arguments: Any) -> tuple[Any, Any]:
        """The actor that answered, and its answer."""
        from ray.exceptions import RayActorError

        dead: Any = None
        for life in range(LIVES):
            try:
                actor = self._living(dead)
                dead = actor
                return actor, _ask(actor, method, *arguments)
            except (RayActorError, _ForeignCacheError):
                if life == LIVES - 1:
                    raise
                time.sleep(PAUSE_S)
        raise AssertionError("unreachable")

    def _living(self, dead: Any) -> Any:
        """The actor, a new one if the present one is the one that was found dead."""
        with self._lock:
            if self._actor is None or self._actor is dead:
                self._actor = None
                actor = self._connect()
                for lease, files in self._leases.items():
                    _ask(actor, "acquire", self._rank, lease, -1, files)
                if self._told is not None:
                    _ask(actor, "update", self._rank, *self._told)
                self._actor = actor
            return self._actor

    def _connect(self) -> Any:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        maker = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"leases": LEASES_AT_ONCE})(NodeCache)
        actor = maker.options(
            name=self._actor_name,
            get_if_exists=True,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self._node, soft=False),
        ).remote()
        self._handles.append(actor)
        folder = _ask(actor, "open", self._settings, self._folder)
        if folder is None:
            ray.kill(actor)
            raise _ForeignCacheError("the cache serves a worker group that is no more")
        self._folder = folder
        return actor


class _ForeignCacheError(RuntimeError):
    """The actor of that name was made for an earlier attempt."""


def _ask(actor: Any, method: str, *arguments: Any) -> Any:
    """Call an actor and wait; a UserError raised there is raised here as itself."""
    import ray
    from ray.exceptions import RayTaskError

    remote = getattr(actor, method)
    if method == "acquire":
        remote = remote.options(concurrency_group="leases")
    try:
        return ray.get(remote.remote(*arguments))
    except RayTaskError as error:
        if isinstance(error.cause, UserError):
            raise error.cause from None
        raise
