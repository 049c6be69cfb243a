"""Hostile versions of good input: bytes that were flipped, cut and swapped, and documents with wrong values in them."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

NUMBERS = (0, -1, 1, 7, 2**31 - 1, 2**32, 2**63 - 1, 2**63, 10**30, -(10**30), 0.5, 1e308, 1e-320)
ODD = (float("nan"), float("inf"), None, True, False, "", [], {}, [[]], {"": None}, [None], "x" * 5000)
OUTSIDE = "outside-of-wavetrain"
"""What a path that leaves its folder would make."""
PATHS = (f"../../../{OUTSIDE}", f"/tmp/{OUTSIDE}", "..", ".", "a/b", "nul\0", "C:\\x", "\u202e", "~", "P01")
VALUES = (*NUMBERS, *ODD, *PATHS)
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 2**40)


def flip(content: bytearray, draw: random.Random) -> None:
    """Change up to eight bytes."""
    for _ in range(draw.randint(1, 8)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)


def cut(content: bytearray, draw: random.Random) -> None:
    """Keep a beginning."""
    del content[draw.randrange(len(content)) :]


def drop(content: bytearray, draw: random.Random) -> None:
    """Take a piece out."""
    start = draw.randrange(len(content))
    del content[start : start + draw.randint(1, 64)]


def repeat(content: bytearray, draw: random.Random) -> None:
    """Copy a piece to somewhere else."""
    start = draw.randrange(len(content))
    place = draw.randrange(len(content))
    content[place:place] = content[start : start + draw.randint(1, 64)]


def insert(content: bytearray, draw: random.Random) -> None:
    """Put noise in."""
    place = draw.randrange(len(content))
    content[place:place] = draw.randbytes(draw.randint(1, 64))


def extreme(content: bytearray, draw: random.Random) -> None:
    """Overwrite what may be a length or an offset."""
    width = draw.choice((1, 2, 4, 8))
    place = draw.randrange(max(len(content) - width, 1))
    content[place : place + width] = (draw.choice(WORDS) % 2 ** (8 * width)).to_bytes(width, "little")


def blank(content: bytearray, draw: random.Random) -> None:
    """Nothing, or something else entirely."""
    content[:] = draw.choice((b"", b"\0", b"\0" * 4096, draw.randbytes(256)))


BYTES = (flip, flip, flip, extreme, extreme, cut, drop, repeat, insert)


def mutate_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to three of the changes above, most near the beginning, where headers are."""
    changed = bytearray(content)
    if draw.random() < 0.02:
        blank(changed, draw)
    for _ in range(draw.randint(1, 3)):
        if not changed:
            break
        head = bytearray(changed[:2048]) if draw.random() < 0.6 else changed
        draw.choice(BYTES)(head, draw)
        if head is not changed:
            changed[:2048] = head
    return bytes(changed)


def mutate_document(document: Any, draw: random.Random) -> Any:
    """A JSON or YAML document with one to three values replaced, removed, renamed or wrapped."""
    changed = copy.deepcopy(document)
    for _ in range(draw.randint(1, 3)):
        changed = _mutate_node(changed, draw)
    return changed


def _mutate_node(document: Any, draw: random.Random) -> Any:
    places = list(_places(document)) if isinstance(document, dict | list) else []
    if not places or draw.random() < 0.02:
        return draw.choice(VALUES)
    holder, key = draw.choice(places)
    change = draw.randrange(6)
    if change == 0:
        del holder[key]
    elif change == 1 and isinstance(holder, dict):
        holder[draw.choice(("", "x", str(key) + "s", "__class__", "spec"))] = holder.pop(key)
    elif change == 2:
        holder[key] = [holder[key]]
    elif change == 3 and isinstance(holder, list):
        holder.insert(0, copy.deepcopy(holder[key]))
    else:
        holder[key] = draw.choice(VALUES)
    return document


def _places(document: Any) -> Any:
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)


DEEP = ("[" * 100_000, '{"a":' * 50_000, "[" * 100_000 + "]" * 100_000)


def mutate_json(content: bytes, draw: random.Random) -> bytes:
    """A JSON file changed as a document, as bytes, or into one that nests without end."""
    kind = draw.random()
    if kind < 0.02:
        return draw.choice(DEEP).encode()
    if kind < 0.3:
        return mutate_bytes(content, draw)
    return json.dumps(mutate_document(json.loads(content), draw)).encode()


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
)
SNIPPETS = (
    "name: 2001-99-99", "seed: " + "9" * 5000, "? [a]\n: b", "? {a: b}\n: c", "a: !!python/object/apply:os.system [ls]",
    "<<: 3", "<<: [1, 2]", "name: *nowhere", "name: &a [*a]", "x: 0x", "a: 190:20:30:99:99", "name: .nan", "- a",
    "a: !!binary x", "a: !!timestamp 2", "a: !!int q", "a: !!float q", "a: !!set {b, c}", "a: !!omap [b]", "%YAML 9.9",
    "name: a\n---\nname: b", "\ttab: 1", "name: \"\\ud800\"", "=: 1", "name: |\n\t", ALIASES, "a: " + "[" * 20_000,
)  # fmt: skip


def mutate_yaml(content: bytes, draw: random.Random) -> bytes:
    """A YAML file changed as a document, as bytes, or with one of the snippets that break parsers."""
    import yaml

    kind = draw.random()
    if kind < 0.15:
        snippet = draw.choice(SNIPPETS).encode("utf-8", "surrogatepass")
        return snippet if draw.random() < 0.5 else content + b"\n" + snippet
    if kind < 0.35:
        return mutate_bytes(content, draw)
    return yaml.safe_dump(mutate_document(yaml.safe_load(content), draw)).encode()


Mutation = Callable[[bytes, random.Random], bytes]
