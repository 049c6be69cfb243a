"""Bad input: one line that says what, where and how to mend it; exit code 2; nothing written."""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from channels.files import write_json
from jobs.cli.main import main
from tests.jobs_for_tests import small_job
from tests.ports import held_port


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def wavetrain(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs the command line; the single line of an exit with code 2."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["wavetrain", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        error = capsys.readouterr().err
        assert ended.value.code == 2, error
        assert error.count("\n") == 1 and error.startswith("wavetrain: "), error
        return error

    return run


def spec_file(folder: Path, store: Path, **sections: Any) -> Path:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(small_job(store, **sections).model_dump(mode="json")))
    return path


def assert_says(line: str, *parts: str) -> None:
    for part in parts:
        assert part in line, line


def test_unknown_key(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store)
    line = wavetrain("train", str(spec), "--set", "train.learning_rte=3")
    assert_says(line, "--set", "'train.learning_rte'", "known here")
    assert not (folder / "runs").exists()


def test_no_sets(folder: Path, small_store: Path, wavetrain: Any) -> None:
    line = wavetrain("train", str(spec_file(folder, small_store)), "--set", "data.sets=[]")
    assert_says(line, "data.sets is empty", str(small_store))
    assert not (folder / "runs").exists()


def test_unknown_model_option(folder: Path, small_store: Path, wavetrain: Any) -> None:
    line = wavetrain("train", str(spec_file(folder, small_store)), "--set", "model.sise=tiny")
    assert_says(line, "sise", "size")


def test_weights_that_bfloat16_spoils(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store, replace_model={"name": "wimamba", "size": "tiny", "patches": [4]})
    line = wavetrain("train", str(spec), "--set", "train.precision=bf16_pure")
    assert_says(line, "train.precision: bf16_pure", "wimamba", "take bf16")
    assert not (folder / "runs").exists()


def test_missing_spec(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("train", "nothing.yaml"), "nothing.yaml", "no such file")


def test_missing_store(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("train", str(spec_file(folder, folder / "absent"))), "absent", "wavetrain channels make")


def test_store_of_another_schema(folder: Path, small_store: Path, wavetrain: Any) -> None:
    store = folder / "other"
    shutil.copytree(small_store, store)
    manifest = json.loads((store / "manifest.json").read_text())
    key = next(name for name in manifest if "schema" in name)
    write_json(store / "manifest.json", manifest | {key: 99})
    assert_says(wavetrain("train", str(spec_file(folder, store))), "manifest.json", "99")


@pytest.mark.parametrize(("damage", "word"), [("truncate", "truncated"), ("flip", "altered"), ("remove", "missing")])
def test_corrupt_shard(folder: Path, small_store: Path, wavetrain: Any, damage: str, word: str) -> None:
    store = folder / "broken"
    shutil.copytree(small_store, store)
    shard = sorted((store / "shards").rglob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-50] ^= 1
    shard.write_bytes(content[:-100] if damage == "truncate" else content)
    if damage == "remove":
        shard.unlink()
    assert_says(wavetrain("train", str(spec_file(folder, store))), shard.name, word, "channels verify")
    assert not (folder / "runs").exists()


def test_fewer_samples_than_a_global_batch(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store, batching={"global_batch": 4096, "partitions": 4})
    assert_says(wavetrain("train", str(spec)), "4096", "180")


def test_more_workers_than_cpus(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store, scale={"workers": 4096}, batching={"global_batch": 4096, "partitions": 4096})
    assert_says(wavetrain("train", str(spec)), "scale.workers", "4096 CPUs")


def test_workers_that_do_not_divide_the_partitions(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store, batching={"partitions": 5, "global_batch": 20})
    assert_says(wavetrain("train", str(spec)), "2 workers", "5 partitions", "1, 5")


def test_gpu_asked_for_and_absent(folder: Path, small_store: Path, wavetrain: Any) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    (folder / "cluster.yaml").write_text("default: gpu\nprofiles: {gpu: {device: cuda}}\n")
    assert_says(wavetrain("train", str(spec_file(folder, small_store))), "2 GPUs", "here are 0")


def test_scan_that_cannot_run_here(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store, replace_model={"name": "wimamba", "size": "tiny", "scan": "mamba_ssm"})
    assert_says(wavetrain("train", str(spec)), "scan", "runs on CUDA", "take scan: auto")
    assert not (folder / "runs").exists()


def test_mlflow_unreachable(folder: Path, small_store: Path, wavetrain: Any) -> None:
    with held_port() as port:
        spec = spec_file(folder, small_store, tracking={"uri": f"http://127.0.0.1:{port}"})
        assert_says(wavetrain("train", str(spec)), "tracking.uri", "unreachable")
    assert not (folder / "runs" / "small").exists()


def test_run_name_of_another_job(folder: Path, small_store: Path, wavetrain: Any) -> None:
    spec = spec_file(folder, small_store)
    run = folder / "runs" / "small"
    run.mkdir(parents=True)
    write_json(run / "spec.json", small_job(small_store, seed=99).model_dump(mode="json"))
    assert_says(wavetrain("train", str(spec)), "exists", "seed: 99 -> 3")
    assert [path.name for path in run.iterdir()] == ["spec.json"]


def test_folder_that_is_no_run(folder: Path, small_store: Path, wavetrain: Any) -> None:
    (folder / "runs" / "small").mkdir(parents=True)
    (folder / "runs" / "small" / "thesis.tex").write_text("precious")
    assert_says(wavetrain("train", str(spec_file(folder, small_store))), "not empty")


def test_port_taken(folder: Path, wavetrain: Any) -> None:
    (folder / "runs").mkdir()
    (folder / "runs" / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_says(wavetrain("ui", "--port", str(port)), f"port {port}", "another port")


def test_ui_before_any_run(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("ui"), "no tracking database")


def test_evaluate_of_an_unknown_run(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("evaluate", "nobody"), "no run 'nobody'")


def test_plan_without_anything(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("plan"), "--preset")


def test_plan_of_a_job_needs_its_store(folder: Path, wavetrain: Any) -> None:
    assert_says(wavetrain("plan", str(spec_file(folder, folder / "absent"))), "absent")
