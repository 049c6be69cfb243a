"""Two users of one machine, each with two runs at a time on the same node of a real Slurm: they do not meet."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from tests.e2e.runs import ROOT, Place
from tests.e2e.slurm.cluster import SlurmCluster, missing_programs
from tests.e2e.slurm.runs import first_attempts_at_rest, meetings, output, raw_job_of
from tests.jobs_for_tests import small_job

MISSING = [] if os.geteuid() == 0 and shutil.which("useradd") else ["useradd, as root"]
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.launching,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(missing_programs()), reason=f"Slurm is not installed: {', '.join(missing_programs())}"),
    pytest.mark.skipif(bool(MISSING), reason="two users are made by useradd, as root"),
]
RUNS = ("a.seed-1", "a.seed-2")
EPOCHS = 3
TORCH_CACHE = "torchinductor_"
"""Beginning of the name of the folder that torch makes for each user, and keeps."""


@contextmanager
def user(slurm: SlurmCluster) -> Iterator[str]:
    """Somebody who has never been here."""
    name = f"wt{os.getpid()}{len(pwd.getpwall())}"
    subprocess.run(["useradd", "--no-create-home", "--user-group", name], check=True)
    try:
        yield name
    finally:
        slurm.run("scancel", f"--user={name}")
        slurm.wait_for("end of all jobs", lambda: not slurm.run("squeue", "-h", f"--user={name}"), 120)
        # A process of theirs may still be ending.
        subprocess.run(["userdel", "--force", name], check=True)
        shutil.rmtree(f"/tmp/{TORCH_CACHE}{name}", ignore_errors=True)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user sees."""
    folder = Path(tempfile.mkdtemp(prefix="users-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def python_of(name: str) -> tuple[str, str]:
    """A Python that a user may run, and the path on which it finds what ours has."""
    packages = os.pathsep.join([str(ROOT), *(entry for entry in sys.path if entry.endswith("site-packages"))])
    for python in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        command, environment = [python, "-c", "import submitit, yaml, jobs"], {"PYTHONPATH": packages}
        try:
            subprocess.run(command, user=name, group=name, cwd="/", env=environment, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python, packages
    pytest.skip("another user can run neither this Python nor the system's, or not read the packages")


def place_of(name: str, shared: Path, slurm: SlurmCluster) -> Place:
    """Where a user works: own runs, and a profile whose jobs all run on one node."""
    folder = shared / name
    folder.mkdir()
    section = {"partition": "gpu", "nodes": 1, "exclude": ["node2", "node3", "node4"], "gpus_per_node": 0}
    profile = {"launcher": "slurm", "network": {"interface": slurm.interface, "check": False}, "slurm": section}
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"default": "mini", "profiles": {"mini": profile}}))
    python, packages = python_of(name)
    own = {"HOME": str(folder), "USER": name, "LOGNAME": name, "PYTHONPATH": packages, "XDG_CACHE_HOME": ""}
    place = Place(folder, slurm.environment | own, user=name, python=python)
    job = small_job(shared / "store", "a", train={"epochs": EPOCHS, "lr": 1e-3}, scale={"workers": 1},
                    data={"zeroshot_sets": []}, tracking={"register_model": False})  # fmt: skip
    place.spec(job)
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, name, name)
    return place


def submit_two(place: Place) -> None:
    done = place.run("submit", "a.yaml", "--sweep", "seed=1,2", "--parallel", "2")
    assert done.returncode == 0, done.stderr


def temporary(name: str) -> list[Path]:
    """What a user has in the machine's temporary folders, but for torch's cache."""
    number = pwd.getpwnam(name).pw_uid
    found = []
    for path in (path for folder in ("/tmp", "/dev/shm") for path in Path(folder).iterdir()):
        # Other programs remove their own meanwhile.
        with suppress(FileNotFoundError):
            if path.lstat().st_uid == number and not path.name.startswith(TORCH_CACHE):
                found.append(path)
    return found


def assert_own_folders(place: Place) -> None:
    """What a user's two runs have in the machine's folders while they train is for nobody else."""
    assert place.user is not None
    modes = {path: oct(path.stat().st_mode & 0o777) for path in temporary(place.user) if path.is_dir()}
    # Of each run one folder in /tmp and one of its name in the shared memory.
    assert len({path.name for path in modes}) == 2 and set(modes.values()) == {"0o700"}, modes
    for name in RUNS:
        (token,) = (place.directory(name) / "launch" / "attempts").glob("*/token")
        assert (token.owner(), token.stat().st_mode & 0o777) == (place.user, 0o600)


def test_two_users_with_two_runs_each_do_not_meet_on_a_node(
    slurm: SlurmCluster, shared: Path, small_store: Path
) -> None:
    shutil.copytree(small_store, shared / "store")
    with user(slurm) as one, user(slurm) as other:
        places = [place_of(name, shared, slurm) for name in (one, other)]
        with ThreadPoolExecutor(2) as both:
            list(both.map(submit_two, places))

        with first_attempts_at_rest(slurm, [(place, name) for place in places for name in RUNS]):
            met = [meeting for place in places for meeting in meetings(place, RUNS)]
            assert [meeting["host"] for meeting in met] == ["node1"] * 4
            for key in ("token", "address", "keepalive"):
                assert len({str(meeting[key]) for meeting in met}) == 4, key
            for place in places:
                assert_own_folders(place)
        for place in places:
            for name in RUNS:
                assert slurm.wait_for_end(raw_job_of(place, name)) == "COMPLETED", output(place, name)
                assert sorted(place.losses(name)) == list(range(1, 12 * EPOCHS + 1))
            assert place.losses(RUNS[0]) != place.losses(RUNS[1])
        assert [places[0].losses(name) for name in RUNS] == [places[1].losses(name) for name in RUNS]
        assert not [path for place in places for path in temporary(place.user)]
