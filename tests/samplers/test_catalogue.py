import dataclasses

import pytest

from channels.errors import UserError
from samplers.catalogue import Catalogue, Source
from tests.samplers.cases import pooled_sources

SETS = (Source("A", 8, 100), Source("B", 16, 50))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": 0}, "source A .*no samples"),
        ({"length": 0}, "source A .*length 0"),
        ({"shard_samples": 0}, "source A .*shard_samples is 0"),
        ({"variant": -1}, "source A .*variant is -1"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(UserError, match=words):
        dataclasses.replace(SETS[0], **change)


def test_no_sources_and_doubled_sources_are_refused() -> None:
    with pytest.raises(UserError, match="no sources"):
        Catalogue([])
    with pytest.raises(UserError, match="set A occurs twice"):
        Catalogue([SETS[0], Source("A", 4, 10)])


def test_totals() -> None:
    catalogue = Catalogue(SETS)
    assert catalogue.total_samples == 150
    assert catalogue.total_tokens == 8 * 100 + 16 * 50


def test_a_pool_is_shared_evenly_and_the_first_variants_get_the_rest() -> None:
    sources = pooled_sources("A", {3: 9, 1: 5, 2: 7}, 11, shard_samples=4)
    assert [(source.variant, source.length, source.count) for source in sources] == [(1, 5, 4), (2, 7, 4), (3, 9, 3)]
    assert {source.pool for source in sources} == {"A"}


def test_a_pool_with_too_few_samples_or_uneven_counts_is_refused() -> None:
    with pytest.raises(UserError, match=r"2 samples are too few for 3 forms .*take more samples"):
        pooled_sources("A", {0: 1, 1: 1, 2: 1}, 2)
    with pytest.raises(UserError, match="pool A: counts 3, 5"):
        Catalogue([Source("A", 1, 3, 0, "A"), Source("A", 1, 5, 1, "A")])
    with pytest.raises(UserError, match=r"pool A: .*shard_samples"):
        Catalogue([Source("A", 1, 3, 0, "A", 4), Source("A", 1, 3, 1, "A", 8)])


def test_fingerprint_follows_every_field_and_the_order() -> None:
    fingerprints = {Catalogue(SETS).fingerprint, Catalogue(SETS[::-1]).fingerprint}
    for change in ({"count": 99}, {"length": 9}, {"variant": 1}, {"shard_samples": 64}, {"name": "C"}):
        fingerprints.add(Catalogue([dataclasses.replace(SETS[0], **change), SETS[1]]).fingerprint)
    assert len(fingerprints) == 7
    assert Catalogue(SETS).fingerprint == Catalogue(list(SETS)).fingerprint


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ((SETS[0],), "set B is missing"),
        ((*SETS, Source("C", 4, 10)), "set C is new"),
        ((dataclasses.replace(SETS[0], count=90), SETS[1]), "set A: count was 100, is 90"),
        (SETS[::-1], "the sets are in another order"),
        (SETS, ""),
    ],
)
def test_differences_are_named(other: tuple[Source, ...], words: str) -> None:
    assert Catalogue(SETS).describe_difference(Catalogue(other)) == words


def test_many_differences_are_abridged() -> None:
    many = Catalogue([Source(f"S{number}", 4, 10) for number in range(9)])
    words = Catalogue([Source("S0", 4, 10)]).describe_difference(many)
    assert words.count("is new") == 5
    assert words.endswith("and 3 more")


def test_json_round_trip() -> None:
    catalogue = Catalogue((*SETS, *pooled_sources("P", {0: 4, 1: 8}, 21)))
    assert Catalogue.from_json(catalogue.to_json()) == catalogue
