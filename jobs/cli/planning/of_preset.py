"""Plans before there is any data: of a preset, its sets by their scales, and of the preset of a job's store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from channels.catalogue import select_sets
from channels.presets import load_preset
from samplers.catalogue import catalogue_of_specs
from samplers.choices import Method, Pack, Strategy
from samplers.plan import make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints

if TYPE_CHECKING:
    from channels.store import ChannelStore
    from orchestrator.spec.job import JobSpec

DEFAULT_BATCH = 128


@dataclass(frozen=True, slots=True)
class PresetOptions:
    """What ``wavetrain plan --preset`` may be given, by the names and with the meaning of its options."""

    preset: str
    sets: str | None = None
    samples: int = 9000
    batch: int | None = None
    batch_tokens: int | None = None
    buckets: int = 4
    method: Method = "optimal"
    strategy: Strategy = "bucket"
    pack: Pack = "bucket"
    min_sources: int = 1
    min_entropy: float = 0.0
    partitions: int = 1
    epochs: int = 1
    seed: int = 0


def plan_preset(options: PresetOptions) -> Schedule:
    """The schedule over a preset's pre-training sets.

    Raises:
        UserError: an unknown preset or set, or a plan that is not possible.
    """
    catalogue = catalogue_of_specs(select_sets(load_preset(options.preset), options.sets).pretrain, options.samples)
    plan = make_plan(
        catalogue,
        strategy=options.strategy,
        method=options.method,
        pack=options.pack,
        buckets=options.buckets,
        batch=DEFAULT_BATCH if options.batch is None and options.batch_tokens is None else options.batch,
        batch_tokens=options.batch_tokens,
        partitions=options.partitions,
        constraints=Constraints(options.min_sources, options.min_entropy),
    )
    return Schedule(catalogue, plan, options.seed, options.partitions, options.epochs)


def announced_store(job: "JobSpec") -> "ChannelStore | None":
    """What a job's store will hold, said on stderr with the command that makes it; None where the store is there.

    Raises:
        UserError: there is no such preset, or it has no such set.
    """
    from orchestrator.data.planned_store import store_to_plan

    preset, path = job.data.preset, job.data.store
    store = store_to_plan(path, preset)
    if store is not None and preset is not None:
        text = f"no store is at {path} yet; the plan is that of preset {preset.name}. Make it: {preset.command(path)}"
        typer.echo(text, err=True)
    return store
