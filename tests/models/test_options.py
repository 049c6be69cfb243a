import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from channels.errors import UserError
from models.options import from_options


@dataclass(frozen=True, kw_only=True)
class Options:
    kind: Literal["a", "b", 4] = "a"
    flag: bool = False
    count: int = 1
    share: float = 0.5
    sides: tuple[int, ...] = (2, 4)
    pair: tuple[int, float] = (1, 2.0)
    limit: int | None = None


def test_defaults_and_every_kind_of_field():
    assert from_options(Options, {}, "model") == Options()
    given = {"kind": 4, "flag": True, "count": 3, "share": 1, "sides": [6], "pair": [2, 3], "limit": 5}
    expected = Options(kind=4, flag=True, count=3, share=1.0, sides=(6,), pair=(2, 3.0), limit=5)
    assert from_options(Options, given, "model") == expected
    assert from_options(Options, {"limit": None}, "model").limit is None
    assert isinstance(from_options(Options, given, "model").share, float)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("kind", "c", "'c'"),
        ("kind", True, "True"),
        ("flag", 1, "bool"),
        ("count", 1.0, "int"),
        ("count", True, "int"),
        ("share", "1", "float"),
        ("sides", 4, "list"),
        ("sides", [4, "x"], r"sides\[1\]"),
        ("pair", [1], "2 entries"),
        ("limit", "no", "int"),
    ],
)
def test_a_value_of_another_type_names_its_field(name, value, told):
    with pytest.raises(UserError, match=told) as error:
        from_options(Options, {name: value}, "model")
    assert f"model.{name}" in str(error.value)


def test_options_of_a_job_are_read_without_torch():
    code = "import sys, models.options; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "False"
