"""The same command on a login node, through the user's own ssh."""

import re
import shlex
import subprocess
import sys
from collections.abc import Sequence

from channels.errors import UserError

SSH_FAILED = 255
ENTER = "cd -- {folder} && {{ [ ! -f .venv/bin/activate ] || . .venv/bin/activate; }} && exec wavetrain {arguments}"


def run_there(host: str, arguments: Sequence[str] | None = None) -> int:
    """Run a command of ours in a folder of another machine; its exit code. arguments: those of this process if None.

    Raises:
        UserError: no folder is given, there is no ssh, or it does not reach the machine.
    """
    where = f"--host {host}"
    login, separator, folder = host.partition(":")
    if not separator or not folder or not re.fullmatch(r"[A-Za-z0-9_][^\s]*", login):
        mend = "e.g. --host me@login.site.example:wavetrain, a folder below your home there or an absolute one"
        raise UserError("not of the form LOGIN:FOLDER", where=where, mend=mend)
    own = without_host(sys.argv[1:] if arguments is None else arguments)
    # The shell over there would not expand a quoted ~; it starts in the home folder anyway.
    entering = ENTER.format(folder=shlex.quote(folder.removeprefix("~/") or "."), arguments=shlex.join(own))
    # The login shell may be one of another family; sh is everywhere.
    # With a terminal of its own there, Ctrl-C reaches the command and not only ssh.
    terminal = ["-t"] if sys.stdin.isatty() and sys.stdout.isatty() else []
    try:
        code = subprocess.run(["ssh", *terminal, "--", login, f"exec sh -c {shlex.quote(entering)}"]).returncode
    except FileNotFoundError:
        raise UserError("ssh is not installed here", where=where, mend="install it, or log in by hand") from None
    if code == SSH_FAILED:
        raise UserError("ssh does not reach it", where=where, mend=f"try: ssh {login} true")
    return code


def without_host(arguments: Sequence[str]) -> list[str]:
    """Arguments of a command without ``--host``."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        if argument == "--host":
            next(rest, None)
        elif not argument.startswith("--host="):
            kept.append(argument)
    return kept
