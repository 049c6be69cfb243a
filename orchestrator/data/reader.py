"""From a channel store and a model's specification to a catalogue, and from a slice of it to a token batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from channels.augment import Augmentation, AugmentationDraws, augment, draw_augmentations
from channels.crop import crop_samples, draw_offsets
from channels.errors import UserError
from channels.signal import add_noise, check_samples, noise_states, sample_keys, unit_power
from channels.store import ChannelStore
from models.interface import ModelSpec, PackedBatch, TokenBatch, Tokens, collate
from models.layers.packing import pack
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.flops import packed_flops, padded_flops
from orchestrator.data.forms import Origin, form_sources, sample_shape, training_forms, whole_shape
from orchestrator.data.planned_store import open_store
from orchestrator.data.stored_batch import Part, Preparation, StoredBatch
from orchestrator.data.target import check_target
from orchestrator.spec.data import DataSection
from orchestrator.spec.train import LossWeighting
from samplers.catalogue import Catalogue, Source
from samplers.schedule import Slice

SPLIT = "train"
MEND_SAMPLE = "find it with 'wavetrain channels verify' and make or import its set again"
MEND_TARGET = "import them with the set, or make the store with wavetrain channels make --zeroshot-train N"


@dataclass(frozen=True, slots=True)
class _Group:
    """Samples of one source in a batch."""

    origin: Origin
    index: NDArray[np.int64]
    keys: NDArray[np.int64]
    weight: NDArray[np.float32]


def _joined(groups: Sequence[_Group]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Keys and weights of all samples."""
    return np.concatenate([group.keys for group in groups]), np.concatenate([group.weight for group in groups])


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Reads slices of the training split; picklable and safe to share between threads."""

    store: ChannelStore
    spec: ModelSpec
    origins: tuple[Origin, ...]
    targets: NDArray[np.float64]
    """Masked tokens [sources, tasks] that one sample contributes to each task."""
    lengths: NDArray[np.int64]
    """Tokens [sources] of one sample."""
    flops: NDArray[np.float64]
    """Arithmetic [sources] of one forward pass of one sample."""
    snr_db: float | None
    seed: int
    packed: bool = False
    """Batches are laid end to end, and fillers left out, instead of padded."""
    loss_weighting: LossWeighting = "token"
    """What counts the same in the loss of a step: every masked token, or every sample."""
    augmentations: tuple[Augmentation, ...] = ()
    """Of every sample, before the noise."""

    def batch(self, slice_: Slice) -> TokenBatch | PackedBatch:
        """The slice's samples, normalised, augmented, noisy and patched; grouped by source inside the batch."""
        slice_ = self._held(slice_)
        groups = self._groups(slice_)
        parts: list[Tokens] = []
        for group in groups:
            channels = unit_power(self._read(group, slice_.epoch), *_blame(self.store, group.origin, SPLIT))
            if self.augmentations:
                rows = self.store.sets[group.origin.set_name].spec.rows
                channels = augment(channels, rows, self._draws(group.keys, slice_.epoch))
            if self.snr_db is not None:
                channels = add_noise(channels, self.snr_db, self.seed, group.keys, slice_.epoch)
            parts.append(self.spec.tokenise(channels, group.origin.variant))
        keys, weights = _joined(groups)
        batch = (pack if self.packed else collate)(parts, keys, weights, slice_.variant)
        return replace(batch, task_weight=self._task_weight(slice_, weights))

    def stored_batch(self, slice_: Slice, tables: NormalTables | None, *, pinned: bool = False) -> StoredBatch:
        """The same samples for a device that makes the batch itself. pinned: in page-locked memory.

        tables: on that device, not needed where there is no noise.
        """
        slice_ = self._held(slice_)
        groups = self._groups(slice_)
        parts = tuple(self._part(group) for group in groups)
        sizes = [part.samples * math.prod(part.shape) for part in parts]
        channels = torch.empty((sum(sizes), 2), pin_memory=pinned)
        rooms = np.split(channels.numpy().view(np.complex64)[:, 0], np.cumsum(sizes)[:-1])
        for group, part, room in zip(groups, parts, rooms, strict=True):
            samples = room.reshape(part.samples, *part.shape)
            self._read(group, slice_.epoch, out=samples)
            check_samples(samples, *_blame(self.store, group.origin, SPLIT))
        keys, weights = _joined(groups)
        counts, grids = [math.prod(part.shape) for part in parts], [part.grid for part in parts]
        repeats = [part.samples for part in parts]
        draws = self._draws(keys, slice_.epoch)
        batch = StoredBatch(
            channels=channels,
            parts=parts,
            counts=torch.from_numpy(np.repeat(np.asarray(counts, np.int64), repeats)),
            states=torch.from_numpy(noise_states(self.seed, keys, slice_.epoch).view(np.int64)),
            turns=None if draws.turns is None else torch.from_numpy(draws.turns),
            flips=None if draws.flips is None else torch.from_numpy(draws.flips),
            grid=torch.from_numpy(np.repeat(np.asarray(grids, np.int64), repeats, axis=0)),
            keys=torch.from_numpy(keys),
            weight=torch.from_numpy(weights),
            task_weight=self._task_weight(slice_, weights),
            variant=slice_.variant,
            preparation=Preparation(self.spec, self.packed, self.snr_db, tables),
        )
        return batch.pin_memory() if pinned else batch

    def _groups(self, slice_: Slice) -> list[_Group]:
        groups = []
        for source in np.unique(slice_.source):
            chosen = slice_.source == source
            origin, index = self.origins[int(source)], slice_.index[chosen]
            keys = sample_keys(origin.set_name, SPLIT, index)
            groups.append(_Group(origin, index, keys, slice_.weight[chosen]))
        return groups

    def _read(self, group: _Group, epoch: int, out: NDArray[np.complex64] | None = None) -> NDArray[np.complex64]:
        """At physical scale, cropped. out: memory to be filled and returned."""
        origin = group.origin
        if origin.crop is None:
            return read_stored(self.store, origin, SPLIT, group.index, out=out)
        whole = read_stored(self.store, origin, SPLIT, group.index)
        offsets = draw_offsets(whole_shape(origin), origin.crop, self.seed, group.keys, epoch)
        return crop_samples(whole, origin.crop, offsets, out)

    def _part(self, group: _Group) -> Part:
        shape = sample_shape(group.origin)
        rows = self.store.sets[group.origin.set_name].spec.rows
        return Part(shape, rows, self.spec.grid(shape, group.origin.variant), len(group.index))

    def _draws(self, keys: NDArray[np.int64], epoch: int) -> AugmentationDraws:
        return draw_augmentations(self.augmentations, self.seed, keys, epoch)

    def _task_weight(self, slice_: Slice, weights: NDArray[np.float32]) -> Tensor | None:
        """Of a batch's samples: parts in the order of the sources, samples of a source in that of the slice."""
        if self.loss_weighting == "token":
            return None
        targets = self.targets[np.sort(slice_.source)].T
        shares = np.divide(weights, targets, out=np.zeros_like(targets), where=targets > 0)
        return torch.from_numpy(shares.astype(np.float32))

    def denominators(self, slices: Sequence[Slice]) -> NDArray[np.float64]:
        """What loss sums are divided by [tasks]: masked tokens of all true samples in the slices.

        By sample: the true samples that mask any.
        """
        counted = self.targets if self.loss_weighting == "token" else (self.targets > 0).astype(np.float64)
        sums: NDArray[np.float64] = sum((slice_.weight @ counted[slice_.source] for slice_ in slices), np.zeros(()))
        return sums

    def padded_tokens(self, slice_: Slice) -> int:
        """Tokens that the batch of a slice computes, padding included; class tokens count as in the plan."""
        if self.packed:
            return int(self.lengths[self._held(slice_).source].sum())
        return len(slice_.source) * int(self.lengths[slice_.source].max())

    def computed_flops(self, slice_: Slice) -> float:
        """Operations to train on the batch of a slice, padding included."""
        if self.packed:
            return packed_flops(self.flops, self._held(slice_))
        return padded_flops(self.flops, slice_)

    def _held(self, slice_: Slice) -> Slice:
        """What a batch holds of a slice: all of it, or packed its true samples (its shortest where it has none)."""
        if not self.packed or slice_.weight.all():
            return slice_
        held = slice_.weight > 0
        if not held.any():
            held[self.lengths[slice_.source].argmin()] = True
        return replace(slice_, source=slice_.source[held], index=slice_.index[held], weight=slice_.weight[held])

    def valid_tokens(self, slices: Sequence[Slice]) -> int:
        """Tokens of the true samples in the slices."""
        return int(sum(slice_.weight @ self.lengths[slice_.source] for slice_ in slices))


def read_samples(store: ChannelStore, origin: Origin, split: str, index: NDArray[np.int64]) -> NDArray[np.complex64]:
    """Unit-power channels [n, T, K, A] of training samples (T = 1 where a slot is a sample)."""
    return unit_power(read_stored(store, origin, split, index), *_blame(store, origin, split))


def read_stored(
    store: ChannelStore,
    origin: Origin,
    split: str,
    index: NDArray[np.int64],
    out: NDArray[np.complex64] | None = None,
) -> NDArray[np.complex64]:
    """The same at physical scale. out: memory to be filled and returned."""
    if origin.samples_per_stored == 1:
        return store.read(origin.set_name, split, index, out=out)
    stored, slot = np.divmod(index, origin.samples_per_stored)
    return store.read(origin.set_name, split, stored, slots=slot, out=out)


def _blame(store: ChannelStore, origin: Origin, split: str) -> tuple[str, str]:
    """Where a sample is read that cannot be used, and how to mend it."""
    where = f"{store.path}, {origin.set_name}/{split}"
    if origin.crop is None:
        return where, MEND_SAMPLE
    return f"{where}, half of its {origin.crop}", f"drop {origin.crop} from data.crop, or leave the set out"


def open_training_data(
    section: DataSection,
    spec: ModelSpec,
    seed: int,
    *,
    packed: bool = False,
    loss_weighting: LossWeighting = "token",
    store: ChannelStore | None = None,
) -> tuple[Catalogue, TrainingData]:
    """The catalogue of the training split and its reader. store: in place of the section's, to plan by.

    Raises:
        UserError: no store, unknown set, a set without training samples, or packed batches for a model without them.
    """
    if packed and not spec.packs:
        mend = "take strategy bucket, or a model that packs"
        raise UserError(f"model {spec.name} takes padded batches only", where="batching.strategy packed", mend=mend)
    store = store or open_store(section.store, section.preset)
    sources: list[Source] = []
    origins: list[Origin] = []
    for name in chosen_sets(store, section):
        entry = store.sets[name]
        split = entry.splits.get(SPLIT)
        if split is None or split.count == 0:
            mend = "drop it from data.sets" if section.target is None else MEND_TARGET
            raise UserError(f"set {name} has no training samples", where=str(section.store), mend=mend)
        shape = entry.spec.shape
        per_stored = spec.samples_per_stored(shape)
        count = min(split.count, section.samples or split.count) * per_stored
        forms = tuple(training_forms(spec, name, shape, section.crop))
        sources.extend(form_sources(forms, count, split.shard_samples * per_stored))
        origins.extend(origin for origin, _ in forms)
    catalogue = Catalogue(tuple(sources))
    shapes = [sample_shape(origin) for origin in origins]
    targets = [spec.target_tokens(shape, origin.variant) for shape, origin in zip(shapes, origins, strict=True)]
    flops = [spec.forward_flops(shape, origin.variant) for shape, origin in zip(shapes, origins, strict=True)]
    data = TrainingData(
        store=store,
        spec=spec,
        origins=tuple(origins),
        targets=np.asarray(targets, np.float64),
        lengths=np.asarray([source.length for source in sources], np.int64),
        flops=np.asarray(flops, np.float64),
        snr_db=section.snr_db,
        seed=seed,
        packed=packed,
        loss_weighting=loss_weighting,
        augmentations=section.augment,
    )
    return catalogue, data


def chosen_sets(store: ChannelStore, section: DataSection) -> tuple[str, ...]:
    """Names of the sets that a job trains on: its target, else the pre-training sets that it asks for."""
    if section.target is not None:
        return (check_target(store, section.target),)
    known = tuple(name for name, entry in store.sets.items() if entry.role == "pretrain")
    chosen = _choose(known, section.sets, "data.sets", str(section.store))
    if not chosen:
        raise UserError("data.sets is empty", where=str(section.store), mend="name some, or drop the field for all")
    return chosen


def chosen_zeroshot_sets(store: ChannelStore, section: DataSection) -> tuple[str, ...]:
    """Names of the held-out sets that are scored: the job's target, else those that it asks for."""
    if section.target is not None:
        return (check_target(store, section.target),)
    known = tuple(name for name, entry in store.sets.items() if entry.role == "zeroshot")
    return _choose(known, section.zeroshot_sets, "data.zeroshot_sets", str(section.store))


def _choose(known: tuple[str, ...], wanted: tuple[str, ...] | int | None, field: str, where: str) -> tuple[str, ...]:
    if wanted is None:
        if not known:
            without = f", or set {field} to [] to score none" if field.endswith("zeroshot_sets") else ""
            raise UserError(
                "the store has no such sets", where=f"{where} ({field})", mend=f"make or import some{without}"
            )
        return known
    if isinstance(wanted, int):
        if wanted > len(known):
            raise UserError(f"{field} = {wanted}, the store has {len(known)}", where=where, mend="ask for fewer")
        return known[:wanted]
    missing = [name for name in wanted if name not in known]
    if missing:
        raise UserError(f"{field}: no set {missing[0]!r}", where=where, mend=f"known: {', '.join(known) or 'none'}")
    return wanted
