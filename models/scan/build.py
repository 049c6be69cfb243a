"""Compiles the C sources beside this file with the machine's C compiler and keeps the library for next time.

The library lies in ``$WAVETRAIN_CACHE`` (default ``~/.cache/wavetrain``) under a name made of sources, flags, compiler
and CPU. It is compiled under a temporary name and renamed, so processes that start together may compile twice but never
see half a library.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

SOURCES = tuple(Path(__file__).with_name(name) for name in ("selective_scan.c", "short_convolution.c"))
HEADER = Path(__file__).with_name("series.h")
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
LIMIT_S = 120


class CannotBuildError(Exception):
    """Why there is no native library, in one line."""


def native_library() -> Path:
    """Path of the compiled library, compiled now if need be (a few seconds). Raises CannotBuildError."""
    compiler = _compiler()
    library = _cache_folder() / f"selective_scan-{_key(compiler)}.so"
    if not library.is_file():
        try:
            _compile(compiler, library)
        except OSError as error:
            raise CannotBuildError(f"{library.parent} cannot be written ({error.strerror})") from error
    return library


def _compiler() -> str:
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise CannotBuildError("no C compiler (cc, gcc or clang) on this machine")


def _cache_folder() -> Path:
    return Path(os.environ.get("WAVETRAIN_CACHE") or Path.home() / ".cache" / "wavetrain")


def _key(compiler: str) -> str:
    version = _run([compiler, "--version"])
    texts = [path.read_text() for path in (*SOURCES, HEADER)]
    parts = [*texts, *FLAGS, compiler, version, platform.machine(), _cpu(), *_openmp()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _cpu() -> str:
    """What ``-march=native`` depends on; a cache may be shared between unlike machines."""
    information = Path("/proc/cpuinfo")
    if not information.is_file():
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = information.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))


def _openmp() -> list[str]:
    """PyTorch's own OpenMP runtime where it brings one: two runtimes would fight for the same cores."""
    folder = Path(torch.__file__).parent
    bundled = [*folder.glob("lib/libgomp*.so*"), *folder.parent.glob("torch.libs/libgomp*.so*")]
    return [str(path) for path in sorted(bundled)[:1]]


def _compile(compiler: str, library: Path) -> None:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent, prefix=".build-") as folder:
        binaries = [str(Path(folder) / f"{source.stem}.o") for source in SOURCES]
        for source, binary in zip(SOURCES, binaries, strict=True):
            _run([compiler, *FLAGS, "-c", str(source), "-o", binary])
        linked = Path(folder) / library.name
        _link([compiler, "-shared", "-Wl,--no-undefined", *binaries, "-o", str(linked)])
        linked.replace(library)


def _link(command: list[str]) -> None:
    try:
        _run([*command, *_openmp()])
    except CannotBuildError:
        # PyTorch brings no runtime, or the compiler calls another one (clang).
        _run([*command, "-fopenmp"])


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotBuildError(f"{command[0]} does not run ({error})") from error
    if done.returncode:
        raise CannotBuildError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")
    return done.stdout
