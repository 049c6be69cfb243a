"""Job and cluster specs: strict, and every error is one line that says where and how to mend."""

from pathlib import Path

import pytest

from channels.errors import UserError
from orchestrator.spec.cluster import Profile, load_profile
from orchestrator.spec.job import JobSpec, load_job
from orchestrator.spec.yaml_files import differences, flatten

ROOT = Path(__file__).parents[3]
MINIMAL = "name: a\ndata: {store: data/a}\n"


ALIASES = "".join(f", &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
NO_YAML = [
    ("2001-99-99", ["month must be in 1..12"]),
    ("[" * 1000, ["nests too deep"]),
    ("!!bool x", ["not YAML", "'x'"]),
    ("!!int x", ["not YAML", "invalid literal"]),
    ("!!timestamp x", ["not YAML"]),
    ("9" * 5000, ["not YAML", "4300 digits"]),
    ("0x" + "f" * 5000, ["not YAML", "64 bits"]),
    ('"\\ud800"', ["not YAML", "surrogates"]),
    ("&a [*a]", ["nests too deep"]),
    (f"[&a0 [1, 1]{ALIASES}]", ["more than 65536 values"]),
    ("[" + "1," * 40000 + "1]", ["longer than 65536 characters"]),
]
"""Values that the parser stumbles over in another way than by syntax."""


def write(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refusal(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("spec", sorted((ROOT / "jobs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_specs_are_valid(spec: Path) -> None:
    assert load_job(spec).name


def test_overrides_replace_and_create(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, MINIMAL), ["train.lr=4e-4", "model.size=tiny", "data.sets=[A, B]"])
    assert job.train.lr == 4e-4
    assert job.model.options == {"size": "tiny"}
    assert job.data.sets == ("A", "B")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\ndata: {store: x}\ntrian: {lr: 1}\n", ["job.yaml", "'trian'", "did you mean 'train'"]),
        ("name: a\ndata: {store: x}\ntrain: {epoch: 1}\n", ["'train.epoch'", "did you mean 'epochs'"]),
        ("name: a\ndata: {store: x}\ntrain: {lr: fast}\n", ["train.lr", "fast"]),
        ("name: a\ndata: {store: x}\ntrain: {lr: -1}\n", ["train.lr", "-1"]),
        ("name: a\n", ["'data' is missing"]),
        (
            "name: a\ndata: {store: x, augment: [phase, subcarriers]}\n",
            ["data.augment.1", "'mirror_azimuth'", "subcarriers"],
        ),
        ("name: ../a\ndata: {store: x}\n", ["name", "../a"]),
        ("name: a\ndata: {store: x}\nbatching: {global_batch: 30, partitions: 8}\n", ["global_batch 30", "multiple"]),
        ("name: a\ndata: {store: x}\ntrain: {compile: true, zero_stage: 3}\n", ["train", "compile", "zero_stage 3"]),
        ("name: a\ndata: {store: x}\ntrain: {muon_lr: 0.01}\n", ["train", "muon_lr", "set optimizer to muon"]),
        ("name: a\ndata: {store: x}\ntrain: {optimizer: sgd}\n", ["train.optimizer", "sgd"]),
        ("name: [\n", ["job.yaml", "not YAML", "line"]),
        ("? " * 5000, ["job.yaml", "not YAML", "nests too deep"]),
        ("- 1\n", ["not a mapping"]),
        ("name: !!python/object/apply:os.system ['true']\n", ["not YAML"]),
        *((f"name: a\ndata: {{store: x}}\ndescription: {value}\n", expected) for value, expected in NO_YAML),
    ],
)
def test_bad_specs_are_refused_in_one_line(tmp_path: Path, text: str, expected: list[str]) -> None:
    message = refusal(lambda: load_job(write(tmp_path, text)))
    for part in expected:
        assert part in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.crop=slots", "data.crop = 'slots': Input should be a valid list; write [slots]"),
        ("data.sets=P01", "data.sets = 'P01': Input should be a valid list; write [P01]"),
        ("data.sets=0", "data.sets = 0: Input should be a valid list"),
        ("data.sets=[1]", "data.sets.0 = 1: Input should be a valid string"),
        ("data.sets=[p, q, p]", "data.sets = ['p', 'q', 'p']: p stands twice; name each once"),
        ("data.zeroshot_sets=[p, p]", "data.zeroshot_sets = ['p', 'p']: p stands twice"),
        ("batching.micro_batch=[4, 0]", "batching.micro_batch.1 = 0: Input should be greater than 0"),
        ("batching.micro_batch=x", "batching.micro_batch = 'x': Input should be a valid integer"),
        ("train.profile=3", "train.profile = 3: Input should be a valid mapping"),
        ("train.betas=[2, 3]", "train.betas.0 = 2: Input should be less than 1"),
        ("train.betas=[0.9, 1.0]", "train.betas.1 = 1.0: Input should be less than 1"),
        ("train.betas=[-1, 0.9]", "train.betas.0 = -1: Input should be greater than or equal to 0"),
        ("train.betas=3", "train.betas = 3: Input should be a valid list"),
        ("data.snr_db=-5000", "data.snr_db = -5000: Input should be greater than or equal to -100"),
        ("evaluation.link_snr_db=5000", "evaluation.link_snr_db = 5000: Input should be less than or equal to 300"),
        ("evaluation.seed=-1", "evaluation.seed = -1: Input should be greater than or equal to 0"),
        ("data.store=''", "data.store = '': the path is empty; write . for the working directory"),
        ("data.store=3", "data.store = 3: Input should be a path"),
    ],
)
def test_values_that_cannot_run_are_refused_in_the_words_of_the_file(tmp_path: Path, override: str, message: str):
    assert f": {message}" in refusal(lambda: load_job(write(tmp_path, MINIMAL), [override]))


def test_missing_file_is_named(tmp_path: Path) -> None:
    assert "nothing.yaml" in refusal(lambda: load_job(tmp_path / "nothing.yaml"))


@pytest.mark.parametrize("override", ["lr", "=3", "train.=3", "name.x=3", f"model{'.x' * 2000}=3"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    refusal(lambda: load_job(write(tmp_path, MINIMAL), [override]))


@pytest.mark.parametrize(("value", "expected"), [*NO_YAML, ("[[[[", ["not YAML"])])
def test_values_that_are_no_yaml_are_refused(tmp_path: Path, value: str, expected: list[str]) -> None:
    message = refusal(lambda: load_job(write(tmp_path, MINIMAL), [f"model.x={value}"]))
    assert message.startswith("--set: value of 'model.x=") and len(message) < 400
    for part in expected:
        assert part in message


def test_training_identity_ignores_what_does_not_change_numbers(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    base = load_job(path)
    harmless_fields = ("checkpoint.every_steps=7", "tracking.experiment=x", "train.prefetch=9", "evaluation.batch=3")
    for harmless in (*harmless_fields, "batching.balance=count", "batching.micro_batch=3"):
        assert load_job(path, [harmless]).fingerprint == base.fingerprint
    mamba = load_job(path, ["model.name=wimamba"])
    assert load_job(path, ["model.name=wimamba", "model.scan=torch"]).fingerprint == mamba.fingerprint
    for decisive in (
        "seed=7",
        "train.lr=1e-5",
        "batching.buckets=2",
        "model.size=tiny",
        "data.snr_db=null",
        "data.augment=[phase]",
    ):
        assert load_job(path, [decisive]).fingerprint != base.fingerprint


def test_augmentations_are_a_set(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    one, other = (
        load_job(path, [f"data.augment=[{names}]"]) for names in ("conjugate, phase", "phase, conjugate, phase")
    )
    assert one.data.augment == ("phase", "conjugate")
    assert one.fingerprint == other.fingerprint


def test_resolved_spec_reads_back(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, MINIMAL), ["model.size=tiny"])
    assert JobSpec.model_validate(job.model_dump(mode="json")) == job


@pytest.mark.parametrize("uri", ["sqlite:////data/mlflow.db", "http://127.0.0.1:5000", "null"])
def test_a_tracking_address_that_depends_on_no_folder_stays(tmp_path: Path, uri: str) -> None:
    job = load_job(write(tmp_path, MINIMAL), [f"tracking.uri={uri}"])
    assert job.tracking.uri == (None if uri == "null" else uri)


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = load_job(write(tmp_path, MINIMAL), ["tracking.uri=sqlite:///here/mlflow.db"])
    assert job.tracking.uri == f"sqlite:///{tmp_path}/here/mlflow.db" and job.data.store.is_absolute()
    storage = Profile.model_validate({"storage": {"cache": "cache"}}).with_absolute_folders().storage
    assert (storage.runs, storage.cache) == (tmp_path / "runs", tmp_path / "cache")


def test_differences_name_the_field() -> None:
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}) == ["a.b: 1 -> 2"]
    assert flatten({"a": {"b": {"c": 1}}, "d": 2}) == {"a.b.c": 1, "d": 2}


def test_shipped_cluster_file_has_both_profiles() -> None:
    laptop = load_profile(ROOT / "cluster.yaml", None)
    assert laptop.launcher == "local" and laptop.device == "cpu" and laptop.network.bind == "127.0.0.1"
    slurm = load_profile(ROOT / "cluster.yaml", "h800").slurm
    assert slurm is not None and (slurm.nodes, slurm.gpus_per_node) == (8, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("default: a\nprofiles: {a: {devise: cpu}}\n", ["'profiles.a.devise'", "device"]),
        ("default: b\nprofiles: {a: {}}\n", ["default 'b'"]),
        ("default: a\nprofiles: {a: {launcher: slurm}}\n", ["slurm section"]),
        ("default: a\nprofiles: {a: {launcher: ray}}\n", ["ray_address"]),
        ("default: a\nprofiles: {a: {launcher: slurm, slurm: {partition: p, time: 90000}}}\n", ["time"]),
        (
            "default: a\nprofiles: {a: {launcher: slurm, slurm: {partition: p, time: '2:00', signal_lead_s: 120}}}\n",
            ["profiles.a.slurm", "slurm.time 2:00", "signal_lead_s 120"],
        ),
    ],
)
def test_bad_cluster_files_are_refused(tmp_path: Path, text: str, expected: list[str]) -> None:
    path = write(tmp_path, text, "cluster.yaml")
    message = refusal(lambda: load_profile(path, None))
    for part in expected:
        assert part in message


def test_unknown_profile_names_the_known(tmp_path: Path) -> None:
    path = write(tmp_path, "default: a\nprofiles: {a: {}}\n", "cluster.yaml")
    assert "known: a" in refusal(lambda: load_profile(path, "b"))


def test_fields_that_came_later_leave_the_identity_of_a_run_alone() -> None:
    """Of a spec as the first version fingerprinted it, whose runs go on."""
    job = JobSpec.model_validate({"name": "x", "data": {"store": "/s"}})
    assert job.fingerprint == "d600193f91d12998e060afac2135718c278ae855459cc044251aeb4e88917d4d"
    changes = [("batching", {"shuffle": "sample"}), ("train", {"loss_weighting": "sample"})]
    changes += [("train", {"optimizer": "muon"}), ("train", {"optimizer": "muon", "muon_lr": 0.01})]
    for section, change in changes:
        other = JobSpec.model_validate({"name": "x", "data": {"store": "/s"}, section: change})
        assert other.fingerprint != job.fingerprint


@pytest.mark.parametrize("value", ["true", "010", "1:30", ".inf", ".nan"])
@pytest.mark.parametrize("field", ["train.epochs", "train.lr", "batching.micro_batch", "seed"])
def test_what_is_no_number_is_refused(tmp_path: Path, field: str, value: str) -> None:
    spec = write(tmp_path, MINIMAL)
    text = refusal(lambda: load_job(spec, [f"{field}={value}"]))
    assert "--set" in text and str(spec) not in text and value in text.replace("True", "true")


def test_a_list_with_a_switch_is_refused_and_switches_stay(tmp_path: Path) -> None:
    spec = write(tmp_path, MINIMAL)
    assert "micro_batch" in refusal(lambda: load_job(spec, ["batching.micro_batch=[true, 2]"]))
    assert load_job(spec, ["train.compile=true", "evaluation.references=false"]).train.compile


def test_an_error_names_where_its_value_comes_from(tmp_path: Path) -> None:
    spec = write(tmp_path, MINIMAL + "train: {epochs: 0}\n")
    assert refusal(lambda: load_job(spec, ["train.lr=1"])).startswith(f"{spec}: ")
    assert refusal(lambda: load_job(spec, ["train.lrr=1", "train.epochs=2"])).startswith("--set train.lrr=1: ")
    assert refusal(lambda: load_job(spec, ["train={lrr: 1}"])).startswith("--set train=")
    spec = write(tmp_path, MINIMAL)
    together = refusal(lambda: load_job(spec, ["batching.global_batch=3", "batching.partitions=2"]))
    assert together.startswith(f"{spec} with --set batching.global_batch with --set batching.partitions: ")


def test_the_home_folder_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    job = load_job(write(tmp_path, "name: a\ndata: {store: ~/stores/a}\n"), ["tracking.uri=sqlite:///~/m.db"])
    assert job.data.store == tmp_path / "stores" / "a" and job.tracking.uri == f"sqlite:///{tmp_path}/m.db"
    profile = Profile.model_validate({"storage": {"runs": "~/runs", "cache": "~/cache"}})
    assert (profile.storage.runs, profile.storage.cache) == (tmp_path / "runs", tmp_path / "cache")
    text = refusal(lambda: load_job(write(tmp_path, "name: a\ndata: {store: ~nobody-here/a}\n")))
    assert "data.store" in text and "~nobody-here" in text


@pytest.mark.parametrize(
    ("time", "lead", "fits"),
    [
        ("99:99:99", 120, False), ("1:60", 30, False), ("1-24:00:00", 120, False), ("0:03:29", 120, False),
        ("0:02:00", 60, False), ("0:02:00", 30, True), ("0:03:30", 120, True), ("90:00", 120, True),
        ("99:59:59", 120, True), ("1-23:59", 120, True),
    ],
)  # fmt: skip
def test_times_of_slurm(tmp_path: Path, time: str, lead: int, fits: bool) -> None:
    section = f"{{launcher: slurm, slurm: {{partition: p, time: {time}, signal_lead_s: {lead}}}}}"
    path = write(tmp_path, f"default: a\nprofiles: {{a: {section}}}\n", "cluster.yaml")
    if fits:
        assert load_profile(path, "a").slurm.time == time
    else:
        assert "profiles.a.slurm" in refusal(lambda: load_profile(path, "a"))
