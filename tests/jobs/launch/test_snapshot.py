"""What travels with a submitted job of a checkout that is full of data."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from channels.errors import UserError
from jobs.launch.snapshot import ROOMS, SOURCE, code_files, take_snapshot

HUGE = 600 * 2**20


def sparse(path: Path, size: int = HUGE) -> None:
    """A file of a size that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A file in every room, and what must not travel."""
    source = tmp_path / "source"
    for room in ROOMS:
        (source / room).mkdir(parents=True)
        (source / room / "code.py").write_text("")
    subprocess.run(["git", "init", "-q", str(source)], check=True)
    for name in (".git/objects/pack/old.pack", "data/demo/a.bin", "runs/a/weights.bin", "measured/a.mat", "tests/b.py"):
        sparse(source / name)
    for name in (".gitignore", ".rayignore", "cluster.yaml"):
        shutil.copy(SOURCE / name, source)
    return source


def test_history_and_data_beside_the_code_are_not_copied(checkout: Path, tmp_path: Path) -> None:
    copy = take_snapshot(tmp_path / "launch", checkout)
    found = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert found == sorted(f"{room}/code.py" for room in ROOMS)


@pytest.mark.parametrize("is_repository", [True, False])
def test_data_among_the_code_is_one_line_that_names_its_folder(checkout: Path, is_repository: bool) -> None:
    if not is_repository:
        shutil.rmtree(checkout / ".git")
    for part in range(3):
        sparse(checkout / "jobs" / "data" / f"part-{part}" / "a.bin", HUGE // 3)
    with pytest.raises(UserError, match=r"jobs/data: the code to copy has 600 MiB, 600 of them in jobs/data; move"):
        code_files(checkout)


def test_what_git_ignores_among_the_code_is_not_copied(checkout: Path) -> None:
    sparse(checkout / "jobs" / "runs" / "a.bin")
    assert len(code_files(checkout)) == len(ROOMS)


def test_rays_own_tool_sends_the_code_alone(checkout: Path, tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(checkout), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    with zipfile.ZipFile(package) as sent:
        names = sorted(name for name in sent.namelist() if not name.endswith("/"))
    assert names == sorted([".gitignore", ".rayignore", "cluster.yaml", *(f"{room}/code.py" for room in ROOMS)])


def test_nothing_of_the_rooms_is_left_behind_by_rays_own_tool(tmp_path: Path) -> None:
    for name in code_files():
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).touch()
    for name in (".gitignore", ".rayignore"):
        shutil.copy(SOURCE / name, tmp_path / "source")
    package = tmp_path / "package.zip"
    excludes = get_runtime_env_default_excludes()
    create_package(str(tmp_path / "source"), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as sent:
        assert {str(name) for name in code_files()} <= set(sent.namelist())
