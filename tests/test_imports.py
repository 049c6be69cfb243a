"""Imports point one way, between rooms and inside them; rooms and files stay small enough to be read (DESIGN)."""

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("channels", "samplers", "models", "orchestrator", "jobs")
MAY_IMPORT = {
    "channels": {"channels"},
    "samplers": {"samplers", "channels"},
    "models": {"models", "channels"},
    "orchestrator": {"orchestrator", "models", "samplers", "channels"},
    "jobs": set(ROOMS),
}
ORDER = {
    "models": (
        "interface", "options", "layers", "predictors", "references", "elements", "scan", "autoencoder", "hetercsi",
        "wifo", "snapshot", "baselines", "registry", "export", "channel_model", "released",
    ),
    "orchestrator": (
        "spec", "run", "data", "shard_cache", "checkpoint", "optimizer", "monitoring", "training", "evaluation",
        "tracking", "report", "downstream", "view", "control",
    ),
    "jobs": ("launch", "node", "slurm", "ray_cluster", "studies", "cli", "run"),
}  # fmt: skip
"""Inside a room, packages and single files in an order in which each imports only itself and those before it."""
ENGINES = {"ray", "deepspeed", "mlflow", "submitit"}
MOST_FILES, MOST_LINES, MOST_IMPORTS = 18, 400, 15


def module_name(path: Path) -> str:
    """``a/b.py`` and ``a/b/__init__.py`` are ``a.b``."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}
FOLDERS = sorted({path.parent for path in FILES.values()})


def absolute_imports(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file, inside functions and for type checking too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_modules(path: Path) -> set[str]:
    """Modules of ours that a file imports, or imports something from."""
    names = absolute_imports(path)
    return {name if name in FILES else name.rpartition(".")[0] for name in names} & FILES.keys()


IMPORTS = {module: own_modules(path) - {module} for module, path in FILES.items()}


def find_circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Names along one circle of a graph, the first one repeated at the end; empty if there is none."""
    done: set[str] = set()

    def follow(path: list[str]) -> list[str]:
        for following in sorted(graph[path[-1]]):
            if following in path:
                return [*path[path.index(following) :], following]
            if following not in done and (circle := follow([*path, following])):
                return circle
        done.add(path[-1])
        return []

    return next((circle for name in sorted(graph) if name not in done and (circle := follow([name]))), [])


@pytest.mark.parametrize("module", FILES)
def test_imports_point_downwards(module: str) -> None:
    path = FILES[module]
    room = module.partition(".")[0]
    names = {name.partition(".")[0] for name in absolute_imports(path)}
    assert names & set(ROOMS) <= MAY_IMPORT[room]
    if room in ("channels", "samplers", "models"):
        assert not names & ENGINES
    if room == "samplers" and path.name != "batches.py":
        assert "torch" not in names


@pytest.mark.parametrize("room", ORDER)
def test_packages_of_a_room_import_in_one_direction(room: str) -> None:
    place = {f"{room}.{name}": number for number, name in enumerate(ORDER[room])}
    inside = {module: ".".join(module.split(".")[:2]) for module in FILES if module.startswith(f"{room}.")}
    assert set(inside.values()) == set(place), "a new package needs its place in ORDER"
    upwards = [
        f"{module} imports {other}"
        for module, package in inside.items()
        for other in sorted(IMPORTS[module] & inside.keys())
        if place[inside[other]] > place[package]
    ]
    assert not upwards


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not find_circle(IMPORTS)


def test_a_circle_is_found() -> None:
    assert find_circle({"a": "b", "b": "cd", "c": "", "d": "b"}) == ["b", "d", "b"]
    assert find_circle({"a": "bc", "b": "c", "c": ""}) == []


def test_no_folder_of_tests_or_benchmarks_has_more_files_either() -> None:
    folders = {path.parent for room in ("tests", "benchmarks") for path in (ROOT / room).rglob("*.py")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_a_folder_is_a_package_that_can_be_overlooked(folder: Path) -> None:
    files = [path.name for path in folder.glob("*.py")]
    assert "__init__.py" in files
    assert len(files) <= MOST_FILES


def test_files_are_short() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in FILES.items()}
    assert {module: lines for module, lines in lengths.items() if lines > MOST_LINES} == {}


@pytest.mark.parametrize("module", ["orchestrator.control.controller", "orchestrator.training.worker"])
def test_the_two_that_hold_everything_together_import_little(module: str) -> None:
    assert len(IMPORTS[module]) <= MOST_IMPORTS, sorted(IMPORTS[module])


def test_rooms_are_found() -> None:
    assert {module.partition(".")[0] for module in FILES} == set(ROOMS)
