"""Options of sbatch that a profile adds to those that Wavetrain writes."""

import re

PATTERN = re.compile(r"^--([a-z][a-z0-9-]*)(?:=(\S.*))?$")
OURS = frozenset(
    {
        "array", "begin", "dependency", "error", "exclude", "input", "job-name", "nodes", "ntasks", "ntasks-per-node",
        "open-mode", "output", "parsable", "quiet", "requeue", "no-requeue", "signal", "test-only", "time", "wait",
        "wrap",
    }
)  # fmt: skip
"""What the launch itself rests on; each has a field of its own in the profile, or none for a reason."""


def read_option(option: str) -> tuple[str, str | bool]:
    """Name without dashes and value of ``--name=value``; True for ``--name``.

    Raises:
        ValueError: another form, or an option that Wavetrain sets itself.
    """
    matched = PATTERN.match(option)
    if matched is None:
        raise ValueError(f"{option!r} is not of the form --name=value or --name")
    name, value = matched.groups()
    if name in OURS:
        raise ValueError(f"--{name} is set by Wavetrain; use the field of the profile")
    return name, True if value is None else value
