"""The plan of a preset before there is any data: its sets by their scales, batching by options."""

from dataclasses import dataclass

from channels.catalogue import select_sets
from channels.presets import load_preset
from samplers.choices import Method, Pack, Strategy
from samplers.plan import make_plan
from samplers.schedule import Schedule
from samplers.segmentation import Constraints
from samplers.spec_catalogue import catalogue_of_specs

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
