"""The part of a job spec that says how samples become batches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.spec.section import Positive, Section
from samplers.choices import Balance, Method, Mix, Pack, Shuffle, Strategy, Tails


class BatchingSection(Section):
    """How samples become batches (samplers)."""

    strategy: Strategy = "bucket"
    pack: Pack = "bucket"
    """Strategy packed: whether a slice holds samples of one bucket or of all sets."""
    method: Method = "optimal"
    buckets: Positive = 4
    min_sources: Positive = 1
    min_entropy: Annotated[float, Field(ge=0)] | None = None
    cost: Literal["tokens", "flops"] = "tokens"
    """What optimal boundaries minimise: padded tokens, or the model's arithmetic on them."""
    global_batch: Positive = 128
    """Samples of one optimizer step over all ranks."""
    batch_tokens: Positive | None = None
    """Token budget of a slice, met on average where nothing is padded; replaces the fixed number of samples."""
    batch_flops: Annotated[float, Field(gt=0)] | None = None
    """Budget of a slice in operations of a forward pass; replaces the fixed number of samples."""
    partitions: Positive = 8
    """Canonical slices of the shards; every world size that divides it gives the same batches."""
    micro_batch: Positive | tuple[Positive, ...] = 64
    """Most samples of one forward pass on one rank; or one number a bucket, as `wavetrain plan --probe` finds them."""
    mix: Mix = "none"
    """``step``: the slices of one optimizer step may come from different buckets."""
    slices: Positive = 1
    """Slices of one optimizer step."""
    tails: Tails = "fill"
    shuffle: Shuffle = "shard"
    """``sample``: every sample goes to a partition on its own; neighbours on disk share batches as often as others."""
    balance: Balance = "cost"
    """Of packed slices: ``cost`` deals their samples to the partitions so that all compute as much; ``count`` leaves
    them where they were drawn. The global batches are the same."""

    @property
    def packed(self) -> bool:
        """Samples of a slice follow each other without padding."""
        return self.strategy == "packed"

    @model_validator(mode="after")
    def _divisible(self) -> "BatchingSection":
        if self.global_batch % (self.partitions * self.slices):
            raise ValueError(
                f"global_batch {self.global_batch} is not a multiple of partitions {self.partitions} x slices "
                f"{self.slices}; change one of them"
            )
        if self.batch_tokens is not None and self.batch_flops is not None:
            raise ValueError("batch_tokens and batch_flops are both given; drop one of them")
        if self.pack != "bucket" and not self.packed:
            raise ValueError(f"pack {self.pack} is for strategy packed, not for {self.strategy}; change one of them")
        return self
