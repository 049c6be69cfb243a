"""Embeddings of a pool: those of the model, the same whatever is beside a sample, kept, and computed again when due."""

from pathlib import Path

import numpy as np
import pytest
import torch

from channels.errors import UserError
from channels.signal import sample_power
from models.interface import collate
from orchestrator.downstream import embedding
from orchestrator.downstream.embedding import embed, embeddings_of
from orchestrator.downstream.encoders import Encoder, encoders_at
from orchestrator.downstream.task import Given
from orchestrator.downstream.views import View, show
from tests.orchestrator.downstream.scenes import pool_of, spec_of, users_of, write_set

Exports = dict[str, Path | None]


@pytest.mark.parametrize("name", ["wimamba", "hetercsi"])
def test_features_are_those_of_a_sample_alone(scenes: Path, exports: Exports, name: str) -> None:
    pool, encoder = pool_of(scenes, samples=5), Encoder(name, exports[name], 4)
    found = embed(encoder, pool, View(), ["class", "mean", "flat", "patches"], "cpu")
    spec, model = encoder.load()
    channel, _ = show(pool.read(pool.sets[1], np.asarray([3])), View(), np.zeros(1))
    with torch.no_grad():
        alone = model.encode(collate([spec.tokenise(channel, 4)], np.zeros(1), np.ones(1), 4))
    patches = alone.patches[0].numpy()
    token = None if alone.class_token is None else alone.class_token[0].numpy()
    pooled = patches.mean(axis=0) if token is None else np.concatenate([token[None], patches]).mean(axis=0)
    close = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(found.of("patches", pool.sets[1])[3], patches, **close)
    np.testing.assert_allclose(found.of("flat", pool.sets[1])[3], patches.reshape(-1), **close)
    np.testing.assert_allclose(found.of("mean", pool.sets[1])[3], pooled, **close)
    np.testing.assert_allclose(found.of("class", pool.sets[1])[3], pooled if token is None else token, **close)
    assert found.class_token == (token is not None)


def test_slots_of_a_sample_are_averaged_and_their_patches_follow_each_other(tmp_path: Path, exports: Exports) -> None:
    shape = (2, 8, 8)
    write_set(tmp_path / "store", spec_of("A", shape=shape), *users_of(3, 0, shape))
    pool, encoder = pool_of(tmp_path / "store"), Encoder("wimamba", exports["wimamba"], 4)
    found = embed(encoder, pool, View(), ["class", "patches"], "cpu")
    assert found.of("class", pool.sets[0]).shape == (3, 64)
    assert found.of("patches", pool.sets[0]).shape == (3, 2 * 4, 64)


def test_what_is_shown() -> None:
    channel, _ = users_of(4, 1)
    given = Given(subcarriers=2, antennas=4)
    shown, whole = show(channel * 1e-5, View(given=given), np.zeros(4))
    assert np.allclose(sample_power(shown[:, :, ::2, ::4]), 1)
    kept = np.zeros(channel.shape[1:], bool)
    kept[:, ::2, ::4] = True
    assert not shown[:, ~kept].any() and np.array_equal(shown[:, kept], whole[:, kept])
    assert np.allclose(whole / channel, (whole / channel)[:, :1, :1, :1], rtol=1e-4)
    loud, _ = show(channel, View(keeps_gain=True), np.asarray([0.0, 10, -10, 20]))
    assert np.allclose(sample_power(loud), [1, 10, 0.1, 100], rtol=1e-4)


def test_embeddings_are_kept_until_something_changes(
    scenes: Path, exports: Exports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, encoder = pool_of(scenes, samples=4), Encoder("hetercsi", exports["hetercsi"], 4)
    first = embeddings_of(encoder, pool, View(), ["mean"], "cpu", tmp_path)
    calls: list[View] = []
    real = embedding.embed

    def counted(*arguments: object) -> object:
        calls.append(arguments[2])  # type: ignore[arg-type]
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(embedding, "embed", counted)
    again = embeddings_of(encoder, pool, View(), ["mean"], "cpu", tmp_path)
    assert not calls
    assert all(np.array_equal(again.values[key], value) for key, value in first.values.items())
    for changed in (pool_of(scenes, samples=5), pool_of(scenes, samples=4, sets=["A"])):
        embeddings_of(encoder, changed, View(), ["mean"], "cpu", tmp_path)
    embeddings_of(encoder, pool, View(keeps_gain=True), ["mean"], "cpu", tmp_path)
    embeddings_of(encoder, pool, View(), ["class"], "cpu", tmp_path)
    assert len(calls) == 4
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    embeddings_of(encoder, pool, View(), ["mean"], "cpu", tmp_path)
    assert len(calls) == 5


def test_encoders_and_their_patch_sides(exports: Exports) -> None:
    assert [one.key for one in encoders_at("w", exports["wimamba"], (4, 6))] == ["w-p4", "w-p6"]
    assert [one.patch for one in encoders_at("h", exports["hetercsi"], (4, 6, 8))] == [4]
    assert [one.feature("mean") for one in encoders_at("raw", None, (4, 8))] == ["flat", "flat"]
    with pytest.raises(UserError, match=r"encoder l .*: lwm has no patches of side 6; it has 4: set patches"):
        encoders_at("l", exports["lwm"], (4, 6))
    with pytest.raises(UserError, match="hetercsi has no patches of side 6"):
        encoders_at("h", exports["hetercsi"], (6,))


def test_flattened_samples_of_different_scales_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "store", spec_of("A"), *users_of(3, 0))
    write_set(tmp_path / "store", spec_of("B", shape=(1, 8, 4)), *users_of(3, 0, (1, 8, 4)))
    pool = pool_of(tmp_path / "store")
    found = embed(Encoder("raw", None, 4), pool, View(), ["flat"], "cpu")
    with pytest.raises(UserError, match="flattened samples have 64 to 128 numbers"):
        found.joined("flat", pool)
