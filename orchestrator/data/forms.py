"""The forms in which the samples of a set are trained on: whole or cropped, at each granularity of the model."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from channels.crop import Crop, cropped_shape
from channels.errors import UserError
from models.interface import ModelSpec, Shape
from samplers.catalogue import Source, shared_sources


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the samples of a catalogue source lie: a set of the store, read at one granularity. shape: as stored."""

    set_name: str
    shape: Shape
    variant: int
    samples_per_stored: int
    """Training samples that one stored sample yields: 1, or its slots, for models of single snapshots."""
    crop: Crop | None = None
    """The axis of which half is kept."""

    @property
    def name(self) -> str:
        """The set's, and of which axis there is half."""
        return self.set_name if self.crop is None else f"{self.set_name}/{self.crop}"


def sample_shape(origin: Origin) -> Shape:
    """Scale of a training sample."""
    shape = whole_shape(origin)
    return shape if origin.crop is None else cropped_shape(shape, origin.crop)


def whole_shape(origin: Origin) -> Shape:
    """Scale of what a training sample is read or cropped from."""
    slots, subcarriers, antennas = origin.shape
    return (slots, subcarriers, antennas) if origin.samples_per_stored == 1 else (1, subcarriers, antennas)


def training_forms(spec: ModelSpec, name: str, shape: Shape, crops: Iterable[Crop]) -> Iterator[tuple[Origin, int]]:
    """What a set's samples (T, K, A) are trained on as, with the tokens of one.

    Raises:
        UserError: the model cannot take a form, or has nothing to predict in it.
    """
    per_stored = spec.samples_per_stored(shape)
    for crop in (None, *crops):
        for variant in sorted(spec.variants):
            origin = Origin(name, shape, variant, per_stored, crop)
            yield origin, _length(spec, origin)


def _length(spec: ModelSpec, origin: Origin) -> int:
    shape = sample_shape(origin)
    scale = " x ".join(map(str, shape))
    if origin.crop is None:
        length = token_lengths(spec, origin.set_name, shape, [origin.variant])[origin.variant]
        where, mend = f"set {origin.set_name}", "leave it out of data.sets"
    else:
        where, mend = f"data.crop {origin.crop}, set {origin.set_name}", "drop the axis, or leave the set out"
        if min(shape) < 1:
            what = f"samples of {origin.set_name} for model {spec.name} have no two {origin.crop}"
            raise UserError(what, where=where, mend=mend)
        try:
            length = spec.length(shape, origin.variant)
        except UserError:
            raise UserError(f"model {spec.name} takes no halves, of {scale} here", where=where, mend=mend) from None
    if not any(spec.target_tokens(shape, origin.variant)):
        what = f"samples of {scale} have nothing for model {spec.name} to predict"
        raise UserError(what, where=where, mend=mend)
    return length


def token_lengths(spec: ModelSpec, set_name: str, shape: Shape, variants: Iterable[int]) -> dict[int, int]:
    """Tokens of a training sample of a set of scale (T, K, A), by granularity.

    Raises:
        UserError: the model cannot take samples of that scale.
    """
    try:
        return {variant: spec.length(shape, variant) for variant in variants}
    except UserError as error:
        raise UserError(str(error), where=f"set {set_name}") from None


def form_sources(forms: Sequence[tuple[Origin, int]], count: int, shard_samples: int) -> tuple[Source, ...]:
    """Sources of a set's ``count`` samples, of which each is trained on in one form an epoch; cropped ones are those of
    a set of its own.

    Raises:
        UserError: there are fewer samples than forms.
    """
    if len(forms) == 1:
        [(origin, length)] = forms
        return (Source(origin.name, length, count, origin.variant, shard_samples=shard_samples),)
    members = [(origin.name, origin.variant, length) for origin, length in forms]
    return shared_sources(forms[0][0].set_name, members, count, shard_samples)
