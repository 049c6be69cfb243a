"""A node's cache from a rank's side: a Ray actor that the first rank of the node to ask for it starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from channels.errors import UserError
from orchestrator.shard_cache.server import CacheSettings, NodeCache
from orchestrator.shard_cache.store import CacheCounts

LEASES_AT_ONCE = 128
"""Steps that may wait for their shards at the same time on a node."""


class ShardCacheDiedError(ConnectionError):
    """The process of a node's cache is gone: this attempt ends, the next one starts another over the same folder.

    preempted: whether it is gone because its machine was taken back.
    """

    def __init__(self, cause: str, preempted: bool = False) -> None:
        super().__init__(cause)
        self.preempted = preempted


class CacheHost:
    """The actor. It starts the cache at the first call, since Ray does not hand over why a constructor fails."""

    def __init__(self, settings: CacheSettings) -> None:
        self._settings = settings
        self._cache: NodeCache | None = None

    def open(self) -> Path:
        """The folder of the copies."""
        if self._cache is None:
            self._cache = NodeCache(self._settings)
        return self._cache.folder

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the cache, which is open."""
        return getattr(self._cache, method)(*arguments)


class RemoteNodeCache:
    """The methods of :class:`NodeCache`, called in the actor of a node. Thread safe.

    All raise ShardCacheDiedError where that actor has died, and a UserError of the cache as itself. name: of the actor,
    the same for all ranks of the node. node: Ray's id. folder: where the copies lie.
    """

    def __init__(self, settings: CacheSettings, name: str, node: str) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        maker = ray.remote(num_cpus=0, max_restarts=0, concurrency_groups={"leases": LEASES_AT_ONCE})(CacheHost)
        # The actor ends with the rank that started it.
        self._actor: Any = maker.options(
            name=name,
            get_if_exists=True,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(settings)
        self.folder: Path = self._await(self._actor.open.remote())

    def update(self, rank: int, position: int, epochs: Mapping[int, Sequence[str]]) -> None:
        """See :meth:`NodeCache.update`."""
        self._call("update", rank, position, epochs)

    def acquire(self, lease: str, epoch: int, files: Sequence[str]) -> bool:
        """See :meth:`NodeCache.acquire`."""
        waiting = self._actor.call.options(concurrency_group="leases").remote("acquire", lease, epoch, files)
        return bool(self._await(waiting))

    def release(self, lease: str) -> None:
        """See :meth:`NodeCache.release`."""
        self._call("release", lease)

    def counts(self) -> CacheCounts:
        """See :meth:`NodeCache.counts`."""
        counts: CacheCounts = self._call("counts")
        return counts

    def discard(self) -> None:
        """See :meth:`NodeCache.discard`; the actor ends."""
        import ray

        self._call("discard")
        ray.kill(self._actor)

    def _call(self, method: str, *arguments: Any) -> Any:
        return self._await(self._actor.call.remote(method, *arguments))

    @staticmethod
    def _await(answer: Any) -> Any:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            return ray.get(answer)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise error.cause from None
            raise
        except RayActorError as error:
            cause = f"the process that copies shards to this node died: {error}"
            raise ShardCacheDiedError(cause, error.preempted) from error
