"""What a checked job consists of, and how a run ended."""

from dataclasses import dataclass, field
from typing import Literal

from channels.importers.published import published_at_full_scale
from channels.store import ChannelStore
from models.interface import ModelSpec, Shape, caveats
from orchestrator.evaluation.score import Score
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import InitialWeights
from orchestrator.spec.cluster import Profile
from orchestrator.spec.data import Shot
from orchestrator.spec.job import JobSpec
from orchestrator.tracking.model_registry import smallest_shape
from samplers.catalogue import Catalogue
from samplers.schedule import Schedule

Status = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that passed every check; nothing has been written yet."""

    job: JobSpec
    profile: Profile
    spec: ModelSpec
    store: ChannelStore
    catalogue: Catalogue
    schedule: Schedule
    zeroshot: tuple[str, ...]
    validation: tuple[str, ...]
    """Pre-training sets whose validation samples are scored beside the training."""
    directory: RunDirectory
    resumes: bool
    tracking_uri: str
    initial: InitialWeights | None = None
    """Weights to begin with; None: drawn from the seed."""

    @property
    def under_way(self) -> bool:
        """Whether it has begun to train before: then it goes on without MLflow where none answers."""
        return self.resumes and self.directory.events.exists()

    @property
    def caveats(self) -> tuple[str, ...]:
        """What the model's scores must be read with."""
        return caveats(self.spec)

    @property
    def example_shape(self) -> Shape:
        """Scale of channels to try the model with, which cost little."""
        target = self.job.data.target
        return smallest_shape(self.store) if target is None else self.store.sets[target].spec.shape

    @property
    def on_published_sets(self) -> bool:
        """Whether all sets that are scored are the published HeterCSI sets with all their samples."""
        origins = [self.store.sets[name].origin for name in self.zeroshot]
        return bool(origins) and all(published_at_full_scale(origin) for origin in origins)


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """How a run ended."""

    status: Status
    directory: RunDirectory
    tracking_uri: str
    cause: str | None = None
    scores: list[Score] = field(default_factory=list)
    shot: Shot = "zero"
    """What the scores are."""
    caveats: tuple[str, ...] = ()
    """What they must be read with."""
    signal: int | None = None
    is_kept: bool = True
    """Whether the run's own state says so; a full disk may have no room for it."""
    is_offline: bool = False
    """Whether MLflow was not asked at all."""
