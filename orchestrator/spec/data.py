"""The part of a job spec that says which channels are used."""

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from channels.augment import AUGMENTATIONS, Augmentation
from channels.crop import Crop
from orchestrator.spec.section import Decibels, FolderPath, Positive, Section, refuse_twice
from orchestrator.spec.store_preset import StorePreset

Shot = Literal["zero", "full"]


class DataSection(Section):
    """Which channels are used, and their noise."""

    store: FolderPath
    """Folder of a channel store; relative paths start at the working directory."""
    preset: StorePreset | None = None
    """What the store is made from: to plan before it is there, and to make it. It says nothing about one that is."""
    sets: tuple[str, ...] | Positive | None = None
    """Names of the pre-training sets, the first N of them, or all."""
    zeroshot_sets: tuple[str, ...] | None = None
    """Names of the held-out sets, or all."""
    target: str | None = None
    """Full-shot: the held-out set that is trained on, alone, and scored; null: the pre-training sets are trained on."""
    samples: Positive | None = None
    """At most so many training samples of every set (the first ones), for ablations."""
    snr_db: Decibels | None = 20.0
    """Noise added to unit-power channels, input and target alike (PAPERS: 20 dB); null for none."""
    augment: tuple[Augmentation, ...] = ()
    """Random changes of training samples that leave them possible channels, before the noise (channels.augment)."""
    crop: tuple[Crop, ...] = ()
    """In every epoch a training sample is whole, or half of one of these axes, equally often (channels.crop)."""
    placement: Literal["shared", "replicate", "partition"] = "shared"
    """Where ranks read shards: the store itself, copies of all on every node, or of what a node's ranks need."""
    cache_gb: Annotated[float, Field(gt=0)] | None = None
    """Most gigabytes of copies a node may hold (placements replicate and partition)."""

    @property
    def shot(self) -> Shot:
        """Whether the sets that are scored are those that were trained on."""
        return "zero" if self.target is None else "full"

    @field_validator("sets", "zeroshot_sets")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | int | None) -> tuple[str, ...] | int | None:
        refuse_twice(names)
        return names

    @field_validator("augment")
    @classmethod
    def _in_one_order(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        return tuple(name for name in AUGMENTATIONS if name in augment)

    @field_validator("crop")
    @classmethod
    def _each_axis_once(cls, crop: tuple[Crop, ...]) -> tuple[Crop, ...]:
        return tuple(sorted(set(crop)))

    @model_validator(mode="after")
    def _target_alone(self) -> "DataSection":
        for field in ("sets", "zeroshot_sets"):
            if self.target is not None and getattr(self, field) is not None:
                raise ValueError(f"target {self.target} is trained on and scored alone; drop {field}")
        return self

    @property
    def cache_bytes(self) -> int | None:
        """``cache_gb`` in bytes."""
        return None if self.cache_gb is None else int(self.cache_gb * 1e9)
