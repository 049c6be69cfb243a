"""Models of sequences: what is history and what is predicted, counts, and what they refuse."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from channels.errors import UserError
from models.baselines.halves import PATCH, Halves
from models.baselines.transformer import TransformerPredictor
from models.interface import MaskDraw, collate
from models.layers.masking import MaskRatios, make_view
from models.layers.parameters import count_parameters
from models.layers.patches import unpatch
from models.registry import make_spec, scale_options
from tests.models.batches import make_channels
from tests.models.learning import losses_by_heart

needs_gpt2 = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
MODELS = [
    pytest.param("lstm", {}, id="lstm"),
    pytest.param("transformer", {"width": 32, "heads": 4, "feedforward": 32}, id="transformer"),
    pytest.param("llm4cp", {"width": 32, "heads": 4, "layers": 1, "channels": 8}, id="llm4cp", marks=needs_gpt2),
]
DIRECTIONS = pytest.mark.parametrize("direction", ["forward", "backward"])
TASKS = pytest.mark.parametrize("task", ["time", "frequency"])
SCALE = (16, 24, 5)


def make(name, options, shape=SCALE, seed=0):
    """A specification for a scale, and its network."""
    spec = make_spec(name, options | scale_options(name, options, shape))
    return spec, spec.build(seed).eval()


def batch_of(spec, channels, weight=1.0):
    count = len(channels)
    return collate([spec.tokenise(channels, 4)], np.arange(count), np.full(count, weight, np.float32), 4)


@TASKS
@pytest.mark.parametrize("shape", [SCALE, (12, 16, 4), (7, 18, 4), (24, 128, 8)])
def test_the_predicted_elements_are_those_that_hetercsi_predicts(task, shape) -> None:
    spec = make_spec("lstm", {"task": task} | scale_options("lstm", {}, shape))
    batch = batch_of(spec, make_channels(2, shape, 1))
    hidden = make_view(task, batch, MaskDraw(seed=3, epoch=2), MaskRatios()).masked
    assert torch.equal(spec.halves.masked().expand(2, -1), hidden)
    hetercsi = make_spec("hetercsi", {})
    column = hetercsi.tasks.index(task)
    assert spec.target_tokens(shape, 4) == (hetercsi.target_tokens(shape, 4)[column],)
    assert spec.length(shape, 4) == hetercsi.length(shape, 4)


@TASKS
@DIRECTIONS
@pytest.mark.parametrize("shape", [SCALE, (7, 18, 4), (9, 9, 3)])
def test_sequences_are_antennas_with_parts_side_by_side(task, direction, shape) -> None:
    channels = make_channels(2, shape, 1)
    spec = make_spec("lstm", {"task": task, "direction": direction} | scale_options("lstm", {}, shape))
    halves, tokens = spec.halves, torch.from_numpy(spec.tokenise(channels, 4).values)
    assert halves.history + halves.future == shape[halves.axis]
    by_step = channels if task == "time" else channels.swapaxes(1, 2)
    steps = by_step.transpose(0, 3, 1, 2).reshape(2 * shape[2], halves.size, -1)
    steps = np.stack([steps.real, steps.imag], axis=-1).reshape(*steps.shape[:2], -1)
    cut = halves.future if direction == "backward" else halves.history
    early, late = steps[:, :cut], steps[:, cut:]
    known, wanted = (late, early) if direction == "backward" else (early, late)
    np.testing.assert_array_equal(halves.cut_history(tokens).numpy(), known)
    placed = halves.place_future(torch.from_numpy(wanted))
    masked = halves.masked()
    assert torch.equal(placed[:, masked], tokens[:, masked])
    assert (
        not unpatch(placed[:, :], halves.grid, PATCH)
        .narrow(1 + halves.axis, halves.future if direction == "backward" else 0, halves.history)
        .any()
    )


@pytest.mark.parametrize(("name", "options"), MODELS)
@TASKS
@DIRECTIONS
def test_what_is_predicted_is_never_seen(name, options, task, direction) -> None:
    spec, model = make(name, options | {"task": task, "direction": direction})
    batch = batch_of(spec, make_channels(2, SCALE, 1))
    [column] = spec.tasks
    with torch.inference_mode():
        before = model.predict(batch, column, 0)
        disturbed = torch.where(before.masked[..., None], 9.0 - 3 * batch.tokens, batch.tokens)
        assert torch.equal(model.predict(replace(batch, tokens=disturbed), column, 0).values, before.values)
        disturbed = torch.where(before.masked[..., None], batch.tokens, 9.0 - 3 * batch.tokens)
        changed = model.predict(replace(batch, tokens=disturbed), column, 0).values != before.values
    assert changed[before.masked].any(dim=1).all()


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_a_sample_does_not_depend_on_its_batch(name, options) -> None:
    spec, model = make(name, options)
    batch = batch_of(spec, make_channels(3, SCALE, 1))
    alone = batch_of(spec, make_channels(3, SCALE, 1)[1:2])
    model.train(name != "llm4cp")  # whose dropout draws for each place of a batch
    together = model.predict(batch, "time", 0).values[1:2]
    torch.testing.assert_close(model.predict(alone, "time", 0).values, together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_it_learns_a_batch_by_heart(name, options) -> None:
    spec, model = make(name, options | ({} if name == "lstm" else {"dropout": 0.0}))
    batch = batch_of(spec, make_channels(2, SCALE, 1))
    losses = losses_by_heart(model.train(), batch, lr=3e-3, steps=20)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_fillers_weigh_nothing_and_the_loss_is_the_error_that_is_scored(name, options) -> None:
    spec, model = make(name, options)
    batch = batch_of(spec, make_channels(2, SCALE, 1))
    weighted = replace(batch, weight=torch.tensor([2.0, 0.0]))
    with torch.inference_mode():
        prediction = model.predict(batch, "time", 0)
        loss = model(weighted, MaskDraw(0, 0))
    errors = ((prediction.values - batch.tokens).square() * batch.elements).sum(-1) / batch.elements.sum(-1).clamp(1)
    torch.testing.assert_close(loss, 2 * errors[0][prediction.masked[0]].sum()[None])


@pytest.mark.parametrize(("name", "options"), MODELS[1:])
@TASKS
def test_operations_are_those_that_are_counted(name, options, task) -> None:
    spec, model = make(name, options | {"task": task})
    batch = batch_of(spec, make_channels(2, SCALE, 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(batch, MaskDraw(0, 0))
    assert counter.get_total_flops() / 2 == pytest.approx(spec.forward_flops(SCALE, 4), rel=0.005)


def test_operations_of_the_lstm() -> None:
    """f = 2 x 8 features, 8 known slots of 16; every antenna takes 15 steps and gives 8."""
    spec, _ = make("lstm", {"layers": 3}, (16, 8, 2))
    a_step = 16 * 16 + 4 * 32 * (16 + 32) + 2 * 4 * 32 * (32 + 32)
    assert spec.forward_flops((16, 8, 2), 4) == 2 * 2 * (15 * a_step + 8 * 32 * 16)


@pytest.mark.parametrize(("layers", "squares", "linear"), [(2, 59, 34), (4, 123, 66)])
def test_parameters_of_the_lstm(layers, squares, linear) -> None:
    """f numbers a step: f^2 + f, 24 f^2 + 16 f in the first layer, 32 f^2 + 16 f in each other one, 2 f^2 + f."""
    _, model = make("lstm", {"layers": layers})
    features = 2 * SCALE[1]
    assert count_parameters(model) == squares * features**2 + linear * features


def test_parameters_of_the_published_transformer() -> None:
    """Width 512, feed-forward 512, three encoder and two decoder layers, two distillations, two embeddings, a head."""
    spec = make_spec("transformer", scale_options("transformer", {}, (24, 64, 4)))
    with torch.device("meta"):
        model = TransformerPredictor(spec)
    width, features = 512, 128
    embedding = 3 * features * width + width
    attention, network, norm = 4 * (width**2 + width), 2 * (width**2 + width), 2 * width
    encoder = 3 * (attention + network + 2 * norm) + 2 * (3 * width**2 + width + norm) + norm
    decoder = 2 * (2 * attention + network + 3 * norm) + norm
    assert count_parameters(model) == 2 * embedding + encoder + decoder + width * features + features


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "does not know it"),
        ({"slots": 16, "subcarriers": 24}, "data.target"),
        ({"slots": 16, "subcarriers": 24, "antennas": 4}, "made for 16 x 24 x 4 slots x subcarriers x antennas, not"),
        ({"slots": 0}, "model.slots"),
        ({"layers": 0}, "model.layers"),
        ({"task": "space"}, "model.options.task"),
    ],
)
def test_what_does_not_fit_is_refused_on_one_line(options, expected) -> None:
    with pytest.raises(UserError) as refused:
        make_spec("lstm", options).length(SCALE, 4)
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_a_scale_with_nothing_to_predict_is_refused() -> None:
    with pytest.raises(UserError, match="4 slots leave nothing to predict in task time"):
        Halves((4, 24, 4), "time")
    assert Halves((4, 24, 4), "frequency").future == 12


def test_batch_norm_is_for_scoring_only() -> None:
    with pytest.raises(UserError, match="distil_norm batch"):
        make_spec("transformer", {"distil_norm": "batch"}).check("cpu")
    make_spec("transformer", {}).check("cpu")


def test_scale_options_fill_what_is_left_out() -> None:
    assert scale_options("lstm", {}, (8, 16, 4)) == {"slots": 8, "subcarriers": 16, "antennas": 4}
    assert scale_options("lstm", {"slots": 12, "subcarriers": None}, (8, 16, 4)) == {"subcarriers": 16, "antennas": 4}
    assert scale_options("hetercsi", {}, (8, 16, 4)) == {}
