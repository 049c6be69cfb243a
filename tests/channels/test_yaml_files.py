"""YAML that a person writes: what is read, and what is refused because it does not mean what it looks like."""

from pathlib import Path
from typing import Any

import pytest

from channels.errors import UserError
from channels.yaml_files import MOST_CHARACTERS, parse_yaml, read_mapping


def value_of(text: str) -> Any:
    return parse_yaml(text, "this", "here", "mend it")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: {c: 1, d: 2, c: 3}", r"line 2: key 'c' stands twice"),
        ("a: 1\n'a': 2", r"line 2: key 'a' stands twice"),
        ("lr: .inf", r"\.inf"),
        ("lr: -.INF", r"-\.INF"),
        ("lr: [1, .nan]", r"\.nan"),
        ("lr: !!float 1e999", "1e999"),
        ("epochs: 010", "010 begins with a zero; drop the zero, or quote it"),
        ("nodes: [001, 002]", "001 begins with a zero"),
        ("a" * (MOST_CHARACTERS + 1), "longer than 65536 characters; leave the defaults out"),
    ],
)
def test_what_is_not_what_it_looks_like_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        value_of(text)
    assert "\n" not in str(caught.value)


def test_numbers_and_texts() -> None:
    assert value_of("[1, -2, 0, 1_000, 0x1f, 0b11, +3]") == [1, -2, 0, 1000, 31, 3, 3]
    assert value_of("[1.5, .5, -0.25, 1.0e-4, 0.0]") == [1.5, 0.5, -0.25, 1e-4, 0.0]
    assert value_of("[1:30, 01:30:00, '010', n001, 1e999]") == ["1:30", "01:30:00", "010", "n001", "1e999"]
    assert value_of("a: &x {b: 1}\nc: {<<: *x, b: 2}") == {"a": {"b": 1}, "c": {"b": 2}}


def test_a_large_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="longer than"):
        read_mapping(path)
