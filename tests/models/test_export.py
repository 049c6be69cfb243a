import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from channels.errors import UserError
from models.export import load_model, load_weights, save_model
from models.interface import MaskDraw
from models.registry import make_spec
from tests.models.batches import make_batch

OPTIONS = {"size": "tiny", "position": "grid"}


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "model"
    model = make_spec("hetercsi", OPTIONS).build(seed=4)
    save_model(folder, "hetercsi", OPTIONS, model)
    return folder, model


def test_a_model_comes_back_as_it_was(exported):
    folder, model = exported
    spec, loaded = load_model(folder)
    assert spec == make_spec("hetercsi", OPTIONS)
    batch = make_batch(spec)
    assert torch.equal(loaded(batch, MaskDraw(0, 0)), model(batch, MaskDraw(0, 0)))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert config == {"model": "hetercsi", "options": OPTIONS}


def test_frequencies_that_were_learned_come_back(tmp_path):
    options = {"size": "tiny", "position": "rotary"}
    spec = make_spec("hetercsi", options)
    model = spec.build(seed=4)
    with torch.no_grad():
        model.encoder.rotary.frequencies.mul_(1.5)
    save_model(tmp_path, "hetercsi", options, model)
    loaded = load_model(tmp_path)[1]
    assert torch.equal(loaded.encoder.rotary.frequencies, model.encoder.rotary.frequencies)
    batch = make_batch(spec)
    assert torch.equal(loaded(batch, MaskDraw(0, 0)), model(batch, MaskDraw(0, 0)))
    with pytest.raises(UserError, match=r"2 tensors are of other shapes .*first 'decoder.rotary.frequencies'"):
        load_weights(tmp_path, "hetercsi", make_spec("hetercsi", OPTIONS).build(seed=0))


def test_loading_needs_no_engine(exported):
    """An exported model is used where Ray, DeepSpeed and MLflow are not installed."""
    folder, model = exported
    code = f"""
import sys
for name in ("ray", "deepspeed", "mlflow", "submitit"):
    sys.modules[name] = None
from pathlib import Path
from models.export import load_model
spec, model = load_model(Path({str(folder)!r}))
print(spec.name, sum(parameter.numel() for parameter in model.parameters()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    name, count = done.stdout.split()
    assert name == "hetercsi" and int(count) == sum(parameter.numel() for parameter in model.parameters())


def test_the_scan_of_the_machine_stays_behind(tmp_path):
    options = {"size": "tiny", "patches": [4]}
    save_model(tmp_path, "wimamba", {**options, "scan": "torch"}, make_spec("wimamba", options).build(seed=0))
    assert json.loads((tmp_path / "config.json").read_text())["options"] == options
    assert load_model(tmp_path)[0].scan == "auto"


def test_precision_is_kept(tmp_path):
    save_model(tmp_path, "hetercsi", OPTIONS, make_spec("hetercsi", OPTIONS).build(seed=4).bfloat16())
    assert load_model(tmp_path)[1].mask_token.dtype == torch.bfloat16


def test_a_failed_export_leaves_the_old_one(exported, monkeypatch):
    folder, model = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("channels.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(folder, "hetercsi", OPTIONS, model.bfloat16())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_of_another_configuration_are_refused(exported):
    folder, _ = exported
    (folder / "config.json").write_text(json.dumps({"model": "hetercsi", "options": {"size": "base"}}))
    with pytest.raises(UserError, match=r"model.safetensors.*another configuration") as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    save_model(tmp_path, "hetercsi", {"size": "base"}, make_spec("hetercsi", OPTIONS).build(seed=0))
    with pytest.raises(UserError, match=r"tensors do not fit.*another configuration"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "nonsense"])
def test_a_missing_or_damaged_file_is_named(exported, name, damage):
    path = exported[0] / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:20] if damage == "cut" else b"[1, 2]")
    with pytest.raises(UserError, match=name):
        load_model(exported[0])


def test_bytes_cut_off_the_end_are_noticed(exported):
    path = exported[0] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"model.safetensors"):
        load_model(exported[0])
