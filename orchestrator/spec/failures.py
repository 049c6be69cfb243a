"""What a run does about failures: how often it tries again, and what counts as one."""

from typing import Annotated

from pydantic import Field

from orchestrator.spec.section import Section

Budget = Annotated[int, Field(ge=0)]
Factor = Annotated[float, Field(gt=1)]


class FailuresSection(Section):
    """How often a run may fail in each way before it gives up, and what counts as a failure."""

    worker: Budget = 3
    """A rank or its node died."""
    device: Budget = 3
    """A GPU is broken: under Slurm the job is requeued without its node, so often, and on a Ray cluster that stands the
    ranks are placed on the other nodes; on one machine the run ends."""
    hang: Budget = 3
    """No step was made for too long."""
    preemption: Budget = 100
    """The cluster took the node back."""
    out_of_memory: Budget = 6
    """A micro-batch did not fit; the next attempt halves it."""
    diverged: Budget = 0
    """A loss was NaN, infinite or a spike: 0 stops the run; more go back to the last checkpoint and skip the step."""
    bad_data: Budget = 0
    """A file is missing or broken; tries help only where it comes back."""
    backoff_s: Annotated[float, Field(ge=0)] = 1.0
    """Wait before the next attempt: none after the first failure of a kind, then this, doubled each time."""
    backoff_cap_s: Annotated[float, Field(ge=0)] = 300.0
    hang_factor: Factor = 20.0
    """No step for so many times the median step time is a hang,"""
    hang_floor_s: Annotated[float, Field(gt=0)] = 300.0
    """if it is also at least so many seconds: ranks also wait for one that writes its share of a checkpoint."""
    spike_factor: Factor | None = None
    """A loss above so many times the median of the last 50 is a spike; null: no loss is."""
    slow_factor: Factor | None = 1.5
    """A rank whose computing takes more than so many times that of the median rank is named; null: no rank is."""

    def budget(self, kind: str) -> int:
        """Failures of a kind that are followed by another attempt."""
        budget: int = getattr(self, kind)
        return budget
