import json
import pickle
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from channels.errors import UserError
from models.interface import MaskDraw, collate
from models.layers.losses import token_losses
from models.layers.masking import TASKS
from models.layers.parameters import count_parameters
from models.registry import make_spec
from tests.models.batches import SCALES, make_batch, make_channels
from tests.models.learning import losses_by_heart

DRAW = MaskDraw(seed=3, epoch=1)


@pytest.fixture(scope="module", params=["flat", "grid", "rotary"])
def spec(request):
    return make_spec("hetercsi", {"size": "tiny", "position": request.param})


@pytest.fixture(scope="module")
def model(spec):
    return spec.build(seed=1)


def gradients(model, batch, draw=DRAW):
    """Loss sums and the gradient of each task's sum, as one vector a task."""
    sums = model(batch, draw)
    parameters = list(model.parameters())
    rows = [torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True) for one in sums]
    empty = [torch.zeros_like(parameter) for parameter in parameters]
    flat = [torch.cat([(g if g is not None else e).flatten() for g, e in zip(row, empty, strict=True)]) for row in rows]
    return sums.detach(), torch.stack(flat)


@pytest.mark.parametrize(("size", "count"), [("published", 69_874_048), ("base", 21_424_768)])
def test_parameter_counts(size, count):
    assert count_parameters(make_spec("hetercsi", {"size": size}).build(seed=0)) == count


def test_tiny_is_small(model):
    assert 500_000 <= count_parameters(model) <= 800_000


@pytest.mark.parametrize(
    ("shape", "giga"),
    [((24, 64, 4), 10.1), ((16, 64, 16), 27.8), ((24, 128, 8), 42.6), ((32, 128, 8), 58.0), ((24, 128, 16), 90.8)],
)
def test_operations_of_a_forward_as_published(shape, giga):
    assert make_spec("hetercsi", {}).forward_flops(shape, 4) == pytest.approx(2e9 * giga, rel=0.005)


def test_a_specification_is_plain_data(spec):
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert make_spec("hetercsi", json.loads(json.dumps(asdict(spec)))) == spec
    assert spec.tasks == ("reconstruction", "time", "frequency")
    assert [(task.name, task.variant) for task in spec.evaluation_tasks] == [(task, 4) for task in spec.tasks]
    assert spec.variants == (4,)
    assert spec.samples_per_stored((16, 32, 8)) == 1


def test_lengths_and_targets():
    spec = make_spec("hetercsi", {})
    assert spec.length((24, 128, 16), 4) == 768
    assert spec.target_tokens((24, 128, 16), 4) == (653, 384, 384)
    assert spec.target_tokens((4, 4, 4), 4) == (0, 0, 0)
    assert spec.length((7, 9, 5), 4) == 12


def test_build_is_a_function_of_the_seed_and_leaves_the_global_generator_alone(spec):
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    one, same, other = spec.build(5), spec.build(5), spec.build(6)
    assert torch.equal(torch.rand(3), expected)
    pairs = list(zip(one.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.patch_embedding.weight, other.patch_embedding.weight)


def test_initialisation(model):
    bound = np.sqrt(6 / (128 + 96))
    weight = model.patch_embedding.weight.detach()
    assert bound * 0.95 < weight.abs().max() <= bound
    assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith(".bias"))
    assert model.mask_token.detach().std() == pytest.approx(0.02, rel=0.3)


def test_forward_sums_the_errors_of_the_masked_tokens(spec, model):
    batch = replace(make_batch(spec), weight=torch.tensor([1.0, 0.5, 2.0, 1.0, 3.0, 1.0]))
    sums = model(batch, MaskDraw(seed=3, epoch=0)).detach()
    for column, task in enumerate(TASKS):
        with torch.no_grad():
            prediction = model.predict(batch, task, seed=3)
        total = 0.0
        for row, scale in enumerate(SCALES):
            assert int(prediction.masked[row].sum()) == spec.target_tokens(scale, 4)[column]
            real = torch.ones(128, dtype=torch.bool).expand(batch.tokens.shape[1], -1)
            real = real if batch.elements is None else batch.elements[row]
            for token in prediction.masked[row].nonzero().flatten():
                error = (prediction.values[row, token] - batch.tokens[row, token])[real[token]]
                total += float(batch.weight[row] * error.square().mean())
        assert float(sums[column]) == pytest.approx(total, rel=1e-5)
    assert sums.dtype == torch.float32


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_does_not_depend_on_the_batch(spec, model, task):
    together = model.predict(make_batch(spec), task, seed=9)
    for row, scale in enumerate(SCALES):
        alone = model.predict(make_batch(spec, [scale], first_key=100 + row), task, seed=9)
        length = alone.values.shape[1]
        torch.testing.assert_close(together.values[row, :length], alone.values[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(together.masked[row, :length], alone.masked[0])


def test_one_pass_gives_the_gradients_of_three(spec, model):
    batch = make_batch(spec)
    sums, together = gradients(model, batch)
    for row, task in enumerate(TASKS):
        views = model._views(batch, (task,), DRAW)
        losses = token_losses(model._predict_views(batch, views)[0], batch)
        loss = (losses.where(views[task].masked, 0).sum(dim=1) * batch.weight).sum()
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        pairs = zip(parts, model.parameters(), strict=True)
        single = torch.cat([(torch.zeros_like(own) if part is None else part).flatten() for part, own in pairs])
        torch.testing.assert_close(sums[row], loss.detach(), rtol=1e-5, atol=1e-5)
        assert single.any() and (together[row] - single).norm() < 1e-5 * single.norm()


def test_losses_and_gradients_of_a_mixed_batch_are_those_of_its_samples(spec, model):
    sums, gradient = gradients(model, make_batch(spec))
    alone = [gradients(model, make_batch(spec, [scale], first_key=100 + row)) for row, scale in enumerate(SCALES)]
    torch.testing.assert_close(sums, sum(one for one, _ in alone), rtol=1e-5, atol=1e-5)
    expected = sum(one for _, one in alone)
    for row in range(len(TASKS)):
        assert (gradient[row] - expected[row]).norm() < 1e-5 * expected[row].norm()


def test_random_mixes_of_lengths_do_not_change_the_losses(spec, model):
    random = np.random.default_rng(0)
    for _ in range(5):
        scales = [tuple(random.integers(1, [13, 25, 10]).tolist()) for _ in range(random.integers(2, 6))]
        together = model(make_batch(spec, scales), DRAW)
        alone = sum(model(make_batch(spec, [scale], first_key=100 + i), DRAW) for i, scale in enumerate(scales))
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


def test_values_in_padding_and_filled_places_of_targets_count_for_nothing(spec, model):
    batch = make_batch(spec)
    padding = torch.arange(batch.tokens.shape[1]) >= batch.lengths[:, None]
    spoiled = replace(batch, tokens=batch.tokens.masked_fill(padding[..., None], 1e3))
    assert torch.equal(model(spoiled, DRAW), model(batch, DRAW))
    prediction = torch.zeros_like(batch.tokens)
    spoiled = replace(batch, tokens=batch.tokens.masked_fill(~batch.elements, 1e3))
    assert torch.equal(token_losses(prediction, spoiled), token_losses(prediction, batch))


def test_fillers_contribute_exactly_nothing(spec, model):
    sums, gradient = gradients(model, make_batch(spec, weight=0.0))
    assert not sums.any()
    assert not gradient.any()


def test_empty_rows_stay_finite(spec, model):
    batch = make_batch(spec)
    empty = replace(batch, lengths=batch.lengths.clone(), tokens=batch.tokens.clone(), weight=batch.weight.clone())
    empty.lengths[0], empty.tokens[0], empty.weight[0] = 0, 0, 0
    sums, gradient = gradients(model, empty)
    assert sums.isfinite().all()
    assert gradient.isfinite().all()
    rest = model(make_batch(spec, SCALES[1:], first_key=101), DRAW)
    torch.testing.assert_close(sums, rest, rtol=1e-5, atol=1e-5)


def test_a_batch_with_nothing_to_mask_is_zero(spec, model):
    sums, gradient = gradients(model, make_batch(spec, [(4, 4, 4), (3, 2, 1)]))
    assert not sums.any()
    assert not gradient.any()


def test_grids_read_from_the_batch_change_nothing(spec, model):
    batch = make_batch(spec)
    assert torch.equal(model(replace(batch, grids=None), DRAW), model(batch, DRAW))


def test_bfloat16_is_close_and_sums_in_float32(spec):
    model = spec.build(seed=1)
    batch = make_batch(spec)
    exact = model(batch, DRAW)
    rough = model.to(torch.bfloat16)(batch, DRAW)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.0)
    rough.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_grids_longer_than_any_before_are_predicted_as_alone(spec, model):
    """Of more blocks an axis than the published sets have, beside a short one."""
    scales = [(8, 280, 4), (4, 8, 36), (84, 4, 4)]
    sums = model(make_batch(spec, scales), DRAW)
    alone = sum(model(make_batch(spec, [scale], first_key=100 + row), DRAW) for row, scale in enumerate(scales))
    assert sums.isfinite().all()
    torch.testing.assert_close(sums, alone, rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_frequencies_of_rotary_positions():
    spec = make_spec("hetercsi", {"size": "tiny", "position": "rotary"})
    model = spec.build(seed=1)
    model(make_batch(spec), DRAW).sum().backward()
    for stack in (model.encoder, model.decoder):
        of_axes = stack.rotary.frequencies.grad.view(3, -1)
        assert of_axes.isfinite().all() and (of_axes != 0).float().mean() > 0.9
    assert spec.keeps_float32 and not make_spec("hetercsi", {"position": "grid"}).keeps_float32


def test_modules_with_weights_return_tensors(spec):
    """ZeRO stage 3 looks for tensors in what such a module returns, and knows few kinds of containers."""
    model, kinds = spec.build(seed=1), set()
    for module in model.modules():
        if next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda module, inputs, output: kinds.add(type(output)))
    model(make_batch(spec), DRAW)
    assert kinds == {torch.Tensor}


def test_it_learns_a_constant_channel():
    spec = make_spec("hetercsi", {"size": "tiny"})
    model = spec.build(seed=0)
    batch = make_batch(spec, [(8, 16, 4)], count=8)
    steady = torch.view_as_real(torch.from_numpy(make_channels(8, (1, 1, 1), 0)).flatten()).repeat_interleave(64, 1)
    batch = replace(batch, tokens=steady[:, None].expand(-1, 8, -1).contiguous())
    losses = losses_by_heart(model, batch, lr=2e-3, steps=40, fresh_masks=True)
    assert losses[-1] < 0.1 * losses[0]


def test_unknown_variant_and_task_are_refused(spec, model):
    batch = make_batch(spec)
    for call in (
        lambda: spec.length((4, 4, 4), 2),
        lambda: spec.target_tokens((4, 4, 4), 2),
        lambda: spec.tokenise(np.zeros((1, 4, 4, 4), np.complex64), 2),
        lambda: model.predict(batch, "tiem", 0),
    ):
        with pytest.raises(UserError):
            call()


def test_a_batch_of_several_parts_keeps_their_order(spec):
    channels = make_channels(3, (8, 8, 4), 1)
    parts = [spec.tokenise(channels[:1], 4), spec.tokenise(channels[1:], 4)]
    batch = collate(parts, np.arange(3), np.ones(3, np.float32), 4)
    np.testing.assert_array_equal(batch.tokens.numpy(), spec.tokenise(channels, 4).values)
