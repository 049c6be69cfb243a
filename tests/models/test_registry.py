import subprocess
import sys
from pathlib import Path

import pytest

from channels.errors import UserError
from models.registry import make_spec, model_names
from models.snapshot.lwm import LwmSpec
from models.snapshot.raw import RawSpec


def test_every_name_is_known():
    ours = {"bert4mimo", "hetercsi", "llm4cp", "lstm", "lwm", "raw", "transformer", "wifo", "wimamba"}
    assert ours <= set(model_names()) and model_names() == sorted(model_names())


@pytest.mark.parametrize("name", ["bert4mimo", "hetercsi", "lwm", "raw", "wifo", "wimamba"])
def test_every_model_has_a_specification_of_its_name(name):
    spec = make_spec(name, {})
    assert spec.name == name
    assert spec.variants
    assert spec.tasks


@pytest.mark.parametrize("name", ["bert4mimo", "hetercsi", "lwm", "raw", "wifo", "wimamba"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_model_computes_on_cpu_and_gpu(name: str, device: str) -> None:
    make_spec(name, {}).check(device)


def test_a_backend_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(UserError, match="scan: the backend 'mamba_ssm' cannot run"):
        make_spec("wimamba", {"scan": "mamba_ssm"}).check("cpu")


def test_whoever_plans_for_a_gpu_does_not_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A controller that tried a kernel would hold hundreds of megabytes of the first rank's device."""
    tried: list[str] = []
    monkeypatch.setattr("models.snapshot.wimamba.choose_backend", lambda device, wanted, packed: tried.append(wanted))
    make_spec("wimamba", {}).check("cuda")
    assert not tried
    make_spec("wimamba", {"scan": "triton"}).check("cuda")
    make_spec("wimamba", {}).check("cpu")
    assert tried == ["triton", "auto"]


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [("hetercsi", {"time_ratio": 2.0}, "time_ratio"), ("lwm", {"mask_share": 2.0}, "mask_share")],
)
def test_options_are_checked_where_python_drops_assertions(name: str, options: dict[str, float], told: str) -> None:
    code = f"from models.registry import make_spec; make_spec({name!r}, {options!r})"
    command = [sys.executable, "-O", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 1 and f"UserError: {told}" in done.stderr


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


def offer(folder: Path, lines: str) -> None:
    """What an installed package that offers models leaves in site-packages."""
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[wavetrain.models]\n{lines}")


def test_packages_offer_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "plain = models.snapshot.raw:RawSpec\nlwm = models.snapshot.raw:RawSpec\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert isinstance(make_spec("plain", {"patches": [4]}), RawSpec)
    assert isinstance(make_spec("lwm", {}), LwmSpec), "nobody takes the name of one of ours"


def test_a_package_without_its_model_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, "gone = models.nowhere:Spec\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"model 'gone': models\.nowhere:Spec cannot be imported"):
        make_spec("gone", {})
