"""Reading YAML that a person writes: one line for every error, and nothing that means something else than it looks.

Of YAML 1.1 three things are refused, since a reader of the file sees them otherwise: a key that stands twice (the last
one would win), numbers that begin with a zero (010 would be 8) and numbers that are none (.inf, .nan). ``1:30`` is a
text, not 90.
"""

import itertools
import math
import re
from pathlib import Path
from typing import Any

import yaml

from channels.errors import UserError

MOST_CHARACTERS = 2**16
MOST_NESTING = 64
"""Most characters and open brackets; PyYAML's time grows with the square of both."""
NUMBER_BITS = 64

_INTEGER = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|[-+]?\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_ZERO_LED = re.compile(r"^[-+]?0[0-9_]+$")
_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_mapping(path: Path, example: str = "name: ...") -> dict[str, Any]:
    """A YAML file whose top is a mapping of names; errors name the line. example: a line of such a file.

    Raises:
        UserError: no such file, unreadable, no YAML, larger or deeper than a person writes, or no mapping.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * MOST_CHARACTERS + 1)
        text = "" if len(content) > 4 * MOST_CHARACTERS else content.decode()
    except FileNotFoundError:
        raise UserError(
            "no such file", where=str(path), mend=f"give the path of a YAML file with lines such as {example}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read ({error})", where=str(path), mend="give a readable text file") from None
    if len(content) > 4 * MOST_CHARACTERS:
        raise _too_long("this", str(path))
    mapping = parse_yaml(text, "this", str(path), "correct the syntax or the value")
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise UserError(
            "the top level is not a mapping of names", where=str(path), mend=f"write lines such as {example}"
        )
    return mapping


def parse_yaml(text: str, what: str, where: str, mend: str) -> Any:
    """The value of a YAML text that a person writes. what, where, mend: of the error for a text that is none.

    Raises:
        UserError: it is no YAML, larger or deeper than a person writes, or ambiguous as said above.
    """
    if len(text) > MOST_CHARACTERS:
        raise _too_long(what, where)
    line = ""
    try:
        _check_nesting(text)
        value = yaml.load(text, Loader=_Loader)
        _check_values(value)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "broken"
    except RecursionError:
        reason = "it nests too deep"
    # PyYAML passes on what its constructors raise, e.g. for the date 2001-99-99.
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
    else:
        return value
    raise UserError(f"{what} is not YAML{line}: {reason}", where=where, mend=mend)


def parse_shipped(text: str) -> Any:
    """The value of a YAML text that ships with the package, read by libyaml (ten times faster) where PyYAML has it."""
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _too_long(what: str, where: str) -> UserError:
    mend = "leave the defaults out, and choose sets by number instead of by name"
    return UserError(f"{what} is longer than {MOST_CHARACTERS} characters", where=where, mend=mend)


def _check_nesting(text: str) -> None:
    opened = itertools.accumulate((character in "[{") - (character in "]}") for character in text)
    if max(opened, default=0) > MOST_NESTING:
        raise ValueError("it nests too deep")


def _check_values(value: Any) -> None:
    """Aliases can make a short text endless; numbers and characters must survive being written as JSON."""
    pending, count = [(value, 0)], 0
    while pending:
        item, depth = pending.pop()
        count += 1
        if depth > MOST_NESTING:
            raise ValueError("it nests too deep")
        if count > MOST_CHARACTERS:
            raise ValueError(f"it holds more than {MOST_CHARACTERS} values")
        if isinstance(item, dict):
            pending += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list | tuple | set):
            pending += [(part, depth + 1) for part in item]
        elif isinstance(item, int) and item.bit_length() > NUMBER_BITS:
            raise ValueError(f"a number has more than {NUMBER_BITS} bits")
        elif isinstance(item, str):
            item.encode()


class _Loader(yaml.SafeLoader):
    """The safe loader with the refusals above."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node. Raises yaml.YAMLError for a repeated key."""
        keys: set[Any] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise _refusal(f"key {str(key.value)[:80]!r} stands twice", key)
                keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """The number of a node. Raises yaml.YAMLError for infinity and for what is no number."""
        value: float = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise _refusal(f"{node.value} is no number that counts", node)
        return value

    def construct_zero_led(self, node: yaml.ScalarNode) -> int:
        """Raises yaml.YAMLError: some read it as an octal number."""
        raise _refusal(f"{node.value} begins with a zero; drop the zero, or quote it if it is a name", node)


def _refusal(problem: str, node: yaml.Node) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBER_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_NUMBER_TAGS[0], _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(_NUMBER_TAGS[1], _FLOAT, list("-+0123456789."))
_Loader.add_implicit_resolver("!zero-led", _ZERO_LED, list("-+0"))
_Loader.add_constructor(_NUMBER_TAGS[1], _Loader.construct_yaml_float)
_Loader.add_constructor("!zero-led", _Loader.construct_zero_led)
