"""Training samples that are whole, half as long or half as wide: in one form an epoch, and a channel in each."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from channels.augment import AUGMENTATIONS
from channels.errors import UserError
from channels.signal import sample_keys, unit_power
from channels.store import ChannelStore
from models.interface import PackedBatch, TokenBatch
from models.registry import make_spec
from orchestrator.data.device_signal import NormalTables
from orchestrator.data.forms import sample_shape, training_forms
from orchestrator.data.reader import SPLIT, TrainingData, open_training_data, read_stored
from orchestrator.spec.data import DataSection
from samplers.batches import ScheduledBatches
from samplers.catalogue import Catalogue
from samplers.plan import make_plan
from samplers.schedule import Schedule, Slice

BOTH = ("slots", "subcarriers")
MODELS = {"hetercsi": {"size": "tiny"}, "wimamba": {"patches": [4, 2]}}


@pytest.fixture(scope="module")
def tables() -> NormalTables:
    return NormalTables.on("cpu")


def opened(
    store: Path, name: str = "hetercsi", crop: tuple[str, ...] = BOTH, packed: bool = False, **fields: object
) -> tuple[Catalogue, TrainingData]:
    section = DataSection.model_validate({"store": store, "crop": crop, **fields})
    return open_training_data(section, make_spec(name, MODELS[name]), 3, packed=packed)


class DarkHalves:
    """A store whose samples are silent in the second half of their slots."""

    def __init__(self, store: ChannelStore) -> None:
        self.path, self.sets, self._store = store.path, store.sets, store

    def read(self, *arguments: Any, **options: Any) -> Any:
        read = np.array(self._store.read(*arguments, **options))
        read[:, read.shape[1] // 2 :] = 0
        return read


def slice_of(source: list[int], index: list[int], epoch: int = 0, variant: int = 4) -> Slice:
    weight = np.ones(len(index), np.float32)
    return Slice(0, variant, np.asarray(source, np.int32), np.asarray(index, np.int64), weight, epoch)


def test_sources_share_the_samples_of_their_set(small_store: Path) -> None:
    catalogue, data = opened(small_store, sets=["R1", "R4"])
    found = [(source.name, source.pool, source.length, source.count) for source in catalogue]
    # R1 is 8 x 16 x 4; R4 is 6 x 10 x 4 and has partial patches.
    assert found == [
        ("R1", "R1", 8, 15), ("R1/slots", "R1", 4, 15), ("R1/subcarriers", "R1", 4, 15),
        ("R4", "R4", 6, 15), ("R4/slots", "R4", 3, 15), ("R4/subcarriers", "R4", 4, 15),
    ]  # fmt: skip
    assert [sample_shape(origin) for origin in data.origins][3:] == [(6, 10, 4), (3, 10, 4), (6, 5, 4)]


@pytest.mark.parametrize("name", MODELS)
def test_every_sample_is_trained_on_once_an_epoch_in_changing_forms(name: str, small_store: Path) -> None:
    catalogue, data = opened(small_store, name, BOTH if name == "hetercsi" else ("subcarriers",))
    plan = make_plan(catalogue, strategy="bucket", buckets=2, batch=8, partitions=2)
    schedule = Schedule(catalogue, plan, seed=1, partitions=2, epochs=2)
    forms: list[dict[tuple[str, int], int]] = [{}, {}]
    seen: Counter[tuple[int, str, int]] = Counter()
    for epoch, _, slices in ScheduledBatches(schedule, 0, 1):
        for slice_ in slices:
            for source, index in zip(slice_.source[slice_.weight > 0], slice_.index[slice_.weight > 0], strict=True):
                set_name = data.origins[source].set_name
                seen[epoch, set_name, int(index)] += 1
                forms[epoch][set_name, int(index)] = int(source)
    stored = {origin.set_name: 45 * origin.samples_per_stored for origin in data.origins}
    assert len(seen) == 2 * sum(stored.values()) and set(seen.values()) == {1}
    assert 0.2 < np.mean([forms[0][sample] == forms[1][sample] for sample in forms[0]]) < 0.5


def test_a_crop_is_a_part_of_its_sample(small_store: Path) -> None:
    """Of unit power itself, anywhere in it, elsewhere in another epoch."""
    data = opened(small_store, sets=["R3"], snr_db=None)[1]
    spec, index = data.spec, list(range(45))
    whole = read_stored(data.store, data.origins[0], SPLIT, np.asarray(index))
    starts = []
    for epoch in (0, 1):
        batch = data.batch(slice_of([1] * 45, index, epoch))
        for sample, tokens in zip(whole, batch.tokens, strict=True):
            parts = np.stack([sample[first : first + 6] for first in range(7)])
            candidates = spec.tokenise(unit_power(parts), 4).values
            starts.append([bool((tokens.numpy() == candidate).all()) for candidate in candidates].index(True))
    assert set(starts) == set(range(7))
    assert starts[:45] != starts[45:]
    keys = sample_keys("R3", SPLIT, np.asarray(index))
    assert torch.equal(batch.keys, torch.from_numpy(keys))


@pytest.mark.parametrize(("name", "packed"), [("hetercsi", False), ("hetercsi", True), ("wimamba", False)])
def test_cropped_batches_are_those_of_the_host(
    name: str, packed: bool, small_store: Path, tables: NormalTables
) -> None:
    crop = BOTH if name == "hetercsi" else ("subcarriers",)
    data = opened(small_store, name, crop, packed, augment=AUGMENTATIONS)[1]
    chosen = [number for number, origin in enumerate(data.origins) if origin.variant == 4]
    slice_ = slice_of([*chosen, *chosen], list(range(2 * len(chosen))))
    made: TokenBatch | PackedBatch = data.stored_batch(slice_, tables).prepared()
    batch = data.batch(slice_)
    assert torch.equal(made.tokens, batch.tokens) and torch.equal(made.grid, batch.grid)
    assert len(set(map(tuple, batch.grid.tolist()))) > 4


def test_what_has_no_halves_is_refused(small_store: Path) -> None:
    with pytest.raises(UserError, match=r"data\.crop slots, set R1: samples of R1 for model wimamba have no two slots"):
        opened(small_store, "wimamba")


@pytest.mark.parametrize(
    ("model", "options", "shape", "says"),
    [("hetercsi", {"size": "tiny"}, (3, 6, 4), "samples of 3 x 3 x 4 have nothing for model hetercsi to predict"),
     ("lstm", {"slots": 8, "subcarriers": 16, "antennas": 4}, (8, 16, 4), "lstm takes no halves, of 8 x 8 x 4 here")],
)  # fmt: skip
def test_a_half_of_which_a_model_makes_nothing_is_refused(
    model: str, options: dict[str, object], shape: tuple[int, int, int], says: str
) -> None:
    spec = make_spec(model, options)
    assert len(list(training_forms(spec, "S", shape, []))) == 1
    with pytest.raises(UserError, match=rf"data\.crop subcarriers, set S: .*{says}; drop the axis"):
        list(training_forms(spec, "S", shape, ["subcarriers"]))


def test_a_set_of_which_a_model_predicts_nothing_is_refused() -> None:
    spec = make_spec("hetercsi", {"size": "tiny"})
    with pytest.raises(UserError, match="set S: samples of 2 x 2 x 2 have nothing for model hetercsi to predict"):
        list(training_forms(spec, "S", (2, 2, 2), []))


@pytest.mark.parametrize("stored", [False, True])
def test_a_half_without_power_names_the_axis(small_store: Path, tables: NormalTables, stored: bool) -> None:
    """The sample is whole and sound: nothing but the axis could be dropped."""
    data = opened(small_store, sets=["R1"])[1]
    dark = replace(data, store=DarkHalves(data.store))
    says = r"R1/train, half of its slots: sample \d+ of the 45 read has mean power 0\.0.*; drop slots from data\.crop"
    slice_ = slice_of([1] * 45, list(range(45)))
    with pytest.raises(UserError, match=says):
        dark.stored_batch(slice_, tables) if stored else dark.batch(slice_)


def test_without_crops_the_catalogue_is_what_it_was(small_store: Path) -> None:
    catalogue, data = opened(small_store, crop=())
    assert [(source.name, source.pool, source.count) for source in catalogue][:2] == [
        ("R1", None, 45),
        ("R2", None, 45),
    ]
    assert [origin.crop for origin in data.origins] == [None] * 4
