import pytest

from channels.errors import UserError
from models.registry import make_spec, model_names


def test_every_name_is_known():
    assert model_names() == ["hetercsi", "lwm", "raw", "wimamba"]


@pytest.mark.parametrize("name", ["hetercsi", "lwm", "raw", "wimamba"])
def test_every_model_has_a_specification_of_its_name(name):
    spec = make_spec(name, {})
    assert spec.name == name
    assert spec.variants
    assert spec.tasks


def test_options_reach_the_specification():
    spec = make_spec("hetercsi", {"size": "tiny", "position": "grid", "random_ratio": 0.75, "time_ratio": 0})
    assert (spec.size, spec.position, spec.random_ratio, spec.time_ratio) == ("tiny", "grid", 0.75, 0.0)
    assert spec.frequency_ratio == 0.5


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("hetercsy", {}, ["hetercsy", "did you mean 'hetercsi'", "model.name"]),
        ("hetercsi", {"sise": "tiny"}, ["'sise'", "did you mean 'size'", "position"]),
        ("hetercsi", {"size": "tinny"}, ["model.options.size", "'tinny'", "did you mean 'tiny'", "published"]),
        ("hetercsi", {"size": 3}, ["model.options.size", "3", "published, base, tiny"]),
        ("hetercsi", {"random_ratio": "half"}, ["model.options.random_ratio", "'half'", "float"]),
        ("hetercsi", {"random_ratio": True}, ["model.options.random_ratio", "True", "float"]),
        ("hetercsi", {"random_ratio": 1.5}, ["random_ratio", "1.5", "[0, 1)"]),
    ],
)
def test_bad_options_are_told_in_one_line(name, options, told):
    with pytest.raises(UserError) as error:
        make_spec(name, options)
    text = str(error.value)
    assert "\n" not in text
    for part in told:
        assert part in text
