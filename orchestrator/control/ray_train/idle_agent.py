"""Stands in for Ray's agent of the dashboard on a node without one: says that it serves nothing, and waits.

A raylet does not start without its agent, which imports for a second what nobody asks; this imports next to nothing.
"""

import ctypes
import os
import signal
import sys

PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
"""Services of the agent, each with a file by which the raylet learns its port."""
NOT_SERVED = "-1"
PR_SET_PDEATHSIG = 1


def main() -> None:
    """Called by a raylet, with the arguments of Ray's own agent."""
    options = dict(text.removeprefix("--").split("=", 1) for text in sys.argv[1:] if "=" in text)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    for name in PORTS:
        path = os.path.join(options["session-dir"], f"{name}_{options['node-id']}")  # noqa: PTH118
        with open(f"{path}.tmp", "w") as file:  # noqa: PTH123
            file.write(NOT_SERVED)
        os.replace(f"{path}.tmp", path)  # noqa: PTH105
    # The raylet ends it, or its end does.
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
