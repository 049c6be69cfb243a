"""What a run begins with: where it is found, what is refused, and the copy in the run's folder."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from channels.errors import UserError
from channels.files import write_json
from models.export import read_spec, save_model
from models.interface import caveats
from models.registry import make_spec
from orchestrator.run.folder import RunDirectory
from orchestrator.run.initial_weights import begun_spec, check_beginning, find_export, keep_copy, load_initial
from orchestrator.spec.job import JobSpec, make_job
from orchestrator.training.exporting import Exporter
from tests.jobs_for_tests import small_job

TINY: dict[str, Any] = {"size": "tiny", "position": "grid"}


def export(folder: Path, options: dict[str, Any], name: str = "hetercsi") -> Path:
    save_model(folder, name, options, make_spec(name, options).build(seed=77))
    return folder


def job_with(runs: Path, init: str, **train: Any) -> JobSpec:
    model = {"name": "hetercsi", **TINY, "init": init}
    return small_job(runs / "store", "tuned", replace_model=model, train=train)


def check(job: JobSpec, runs: Path) -> Any:
    return check_beginning(job, make_spec(job.model.name, job.model.options), runs)


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A finished run, one under way, and an exported model elsewhere."""
    export(tmp_path / "runs" / "source" / "model", TINY)
    write_json(tmp_path / "runs" / "source" / "spec.json", {})
    write_json(
        tmp_path / "runs" / "going" / "spec.json" if (tmp_path / "runs" / "going").mkdir() is None else Path(), {}
    )
    export(tmp_path / "elsewhere", TINY)
    return tmp_path / "runs"


def test_a_run_its_folder_and_an_export_are_found(runs: Path) -> None:
    assert find_export("source", runs) == runs / "source" / "model"
    for named in (runs / "source", runs / "source" / "model"):
        assert find_export(str(named), runs) == runs / "source" / "model"
    assert find_export(str(runs.parent / "elsewhere"), runs) == runs.parent / "elsewhere"


def test_a_folder_keeps_its_place_and_a_run_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    fields = {"name": "x", "data": {"store": "s"}}
    for given, found in [("./m", f"{tmp_path}/m"), ("~/m", f"{tmp_path}/home/m"), ("m", "m"), ("null", None)]:
        assert make_job(fields, [f"model.init={given}"], "job.yaml").model.init == found


@pytest.mark.parametrize(
    ("init", "says"),
    [
        ("sauce", "model.init sauce: there is no run or exported model at .*/runs/sauce; name a run"),
        ("going", "model.init going: the run in .*/runs/going has exported no model yet; let it finish"),
        ("wider", "tensors are of other shapes than the job's hetercsi has, first 'decoder.blocks.0"),
        ("other", "holds a wifo, not a hetercsi"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(init: str, says: str, runs: Path) -> None:
    export(runs / "wider" / "model", {"size": "base"})
    export(runs / "other" / "model", {"size": "tiny"}, "wifo")
    with pytest.raises(UserError, match=says) as error:
        check(job_with(runs, init), runs)
    assert "\n" not in str(error.value)


def test_parts_to_freeze_are_checked_before_a_run(runs: Path) -> None:
    with pytest.raises(UserError, match=r"train\.freeze: the model has no parameters 'encodr'"):
        check(job_with(runs, "source", freeze=["encodr"]), runs)
    plain = small_job(runs / "store", train={"freeze": ["encodr"]})
    with pytest.raises(UserError, match=r"train\.freeze"):
        check(plain, runs)
    assert check(small_job(runs / "store"), runs) is None


def test_an_optimizer_with_nothing_to_train_is_refused_before_a_run(runs: Path) -> None:
    with pytest.raises(UserError, match=r"train\.optimizer: no weight is there for Muon"):
        check(small_job(runs / "store", train={"optimizer": "muon", "freeze": ["encoder", "decoder"]}), runs)
    assert check(small_job(runs / "store", train={"optimizer": "muon", "freeze": ["encoder"]}), runs) is None


def test_other_options_of_the_same_shapes_are_said(runs: Path) -> None:
    export(runs / "flat" / "model", {"size": "tiny", "position": "flat", "time_ratio": 0.25})
    line = check(job_with(runs, "flat"), runs).line
    assert line.startswith("begins with the weights of flat (sha256 ")
    assert line.endswith("exported with other options: position 'flat', time_ratio 0.25")
    assert "other options" not in check(job_with(runs, "source"), runs).line


def test_the_copy_serves_when_the_source_is_gone(runs: Path) -> None:
    job = job_with(runs, "source")
    initial = check(job, runs)
    directory = RunDirectory(runs / job.name)
    directory.path.mkdir()
    (directory.path / ".init.tmp").mkdir()
    keep_copy(initial, directory)
    assert directory.read_state()["init"] == initial.record == {"source": "source", "sha256": initial.sha256}
    weights = load_file(runs / "source" / "model" / "model.safetensors")
    (runs / "source" / "model" / "model.safetensors").unlink()
    again = check(job, runs)
    assert (again.folder, again.sha256) == (directory.initial, initial.sha256)
    keep_copy(again, directory)
    model = make_spec("hetercsi", TINY).build(seed=3)
    load_initial(directory, job, model)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert sorted(path.name for path in directory.path.iterdir()) == ["init", "state.json"]


def test_identity_follows_the_beginning_and_defaults_leave_it_alone(runs: Path) -> None:
    plain = small_job(runs / "store", replace_model={"name": "hetercsi", **TINY})
    spoken = small_job(
        runs / "store", replace_model={"name": "hetercsi", **TINY, "init": None},
        train={"freeze": [], "layer_lr_decay": 1},
    )  # fmt: skip
    assert spoken.fingerprint == plain.fingerprint
    changed = [
        small_job(runs / "store", replace_model={"name": "hetercsi", **TINY, "init": "source"}),
        small_job(runs / "store", replace_model={"name": "hetercsi", **TINY}, train={"freeze": ["encoder"]}),
        small_job(runs / "store", replace_model={"name": "hetercsi", **TINY}, train={"layer_lr_decay": 0.9}),
    ]
    assert len({plain.fingerprint, *(job.fingerprint for job in changed)}) == 4
    assert changed[0].model.options == plain.model.options


@pytest.mark.parametrize("gpt2", ["/models/gpt2", None])
def test_a_run_says_what_its_first_weights_hold_of_gpt2(runs: Path, gpt2: str | None) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    options = {"slots": 16, "subcarriers": 8, "antennas": 2, "width": 32, "heads": 4, "layers": 2, "channels": 8}
    source = make_spec("llm4cp", options).build(seed=7)
    save_model(runs / "source" / "model", "llm4cp", options | {"gpt2": gpt2}, source)
    model = {"name": "llm4cp", **options, "init": "source"}
    job = small_job(runs / "store", "tuned", replace_model=model)
    initial, directory = check(job, runs), RunDirectory(runs / job.name)
    assert "other options" not in initial.line
    directory.path.mkdir()
    keep_copy(initial, directory)
    spec = begun_spec(job, directory.initial)
    [note] = spec.notes("cpu", False)
    assert ("random" in note, "begins with" in note) == (gpt2 is None, gpt2 is not None)
    engine: Any = SimpleNamespace(rank=0, full_weights=source.state_dict)
    events: Any = None
    Exporter(directory, job, spec, engine, events).export(directory.export)
    assert caveats(read_spec(directory.export)) == caveats(spec) == (() if gpt2 else (note,))
    both = small_job(runs / "store", "both", replace_model=model | {"gpt2": str(runs)})
    with pytest.raises(UserError, match="model: init and gpt2 both name weights to begin with") as error:
        check(both, runs)
    assert "\n" not in str(error.value)
