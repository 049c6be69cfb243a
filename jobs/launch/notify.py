"""Saying that a run has failed, was preempted or is finished: a command or a webhook of the profile, once a minute."""

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from channels.errors import UserError
from channels.files import write_json
from orchestrator.run.file_lock import try_lock
from orchestrator.run.folder import RunDirectory
from orchestrator.spec.cluster import Profile
from orchestrator.spec.notify import Event, NotifySection, shown

LIMIT_S = 5.0
"""For the command or the webhook: Slurm kills what is left of a job 30 s (KillWait) after it has asked it to end."""
EVERY_S = 60.0
MOST_UNSENT = 50


@dataclass(frozen=True, slots=True)
class Notice:
    """What is sent. earlier: lines of what happened within a minute of the notice before."""

    event: Event
    run: str
    cause: str | None
    link: str
    earlier: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line."""
        cause = f" ({self.cause})" if self.cause else ""
        return f"wavetrain: run {self.run} {self.event}{cause}: {self.link}"


def notify(
    profile: Profile, directory: RunDirectory, event: Event, cause: str | None, warn: Callable[[str], None]
) -> None:
    """Send a notice, if the profile asks for one; whatever goes wrong is one warning, after a few seconds at most."""
    section = profile.notify
    if event not in section.on or (section.command is None and section.webhook is None):
        return
    try:
        notice = Notice(event, directory.path.name, cause, link_to(directory))
        problems = _send_in_turn(section, notice, profile.storage.runs)
    except (OSError, UserError, ValueError) as error:
        problems = [f"{type(error).__name__} in {profile.storage.runs}"]
    for problem in problems:
        warn(f"warning: no notice of {event}: {problem}")


def link_to(directory: RunDirectory) -> str:
    """The page of a run on its MLflow server, without user and password; its folder where the server has none."""
    state = directory.read_state()
    spec = json.loads(directory.spec.read_text()) if directory.spec.exists() else {}
    uri, run, experiment = (
        (spec.get("tracking") or {}).get("uri") or "", state.get("mlflow_run_id"), state.get("mlflow_experiment_id"),
    )  # fmt: skip
    if not uri.startswith("http") or not run:
        return str(directory.path)
    parts = urlsplit(uri)
    server = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return f"{server}/#/experiments/{experiment}/runs/{run}"


def _send_in_turn(section: NotifySection, notice: Notice, runs: Path) -> Sequence[str]:
    """Send it unless a notice of any run in this folder was sent within a minute: then the next one brings it."""
    with (runs / ".notify.lock").open("a") as lock:
        deadline = time.monotonic() + LIMIT_S
        while not try_lock(lock):
            if time.monotonic() > deadline:
                return [f"{lock.name} is taken"]
            time.sleep(0.05)
        kept = runs / ".notify.json"
        record: Mapping[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"sent": 0.0, "unsent": []}
        waits_s = record["sent"] + EVERY_S - time.time()
        if 0 < waits_s <= EVERY_S:
            write_json(kept, {**record, "unsent": [*record["unsent"], notice.text][-MOST_UNSENT:]})
            return ["another one was sent within a minute; the next one brings it"]
        write_json(kept, {"sent": time.time(), "unsent": []})
    return send(section, Notice(notice.event, notice.run, notice.cause, notice.link, tuple(record["unsent"])))


def send(section: NotifySection, notice: Notice, limit_s: float = LIMIT_S) -> Sequence[str]:
    """Command and webhook at a time; what failed of them, without anything that may be a secret."""
    problems: list[str] = []
    ways = [lambda: _call(section.command, notice, limit_s), lambda: _post(section.webhook, notice, limit_s)]
    # A server may send its answer a byte at a time: only a thread that is left behind keeps the limit then.
    threads = [threading.Thread(target=lambda way=way: problems.extend(way()), daemon=True) for way in ways]
    deadline = time.monotonic() + limit_s
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline + 0.5 - time.monotonic(), 0.0))
    if any(thread.is_alive() for thread in threads):
        problems.append(f"no end within {limit_s:g} s")
    return list(problems)


def _call(command: str | None, notice: Notice, limit_s: float) -> list[str]:
    if command is None:
        return []
    fields = {**asdict(notice), "text": notice.text, "earlier": "\n".join(notice.earlier)}
    environment = {f"WAVETRAIN_{name.upper()}": str(value or "") for name, value in fields.items()}
    # Slurm's signal for the end of a job reaches all its processes; this one has its own, shorter limit.
    deaf = ["/bin/sh", "-c", f'trap "" TERM\n{command}']
    # Its output may hold a secret, and one that waits for its input would wait for ever.
    nowhere = subprocess.DEVNULL
    child = subprocess.Popen(
        deaf, env=os.environ | environment, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True
    )
    try:
        code = child.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        return [f"notify.command has not ended in {limit_s:g} s"]
    return [f"notify.command ended with status {code}"] if code else []


def _post(webhook: str | None, notice: Notice, limit_s: float) -> list[str]:
    if webhook is None:
        return []
    body = json.dumps({"text": notice.text, **asdict(notice)}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=limit_s):
            return []
    except urllib.error.HTTPError as error:
        return [f"{shown(webhook)} answers with status {error.code}"]
    except Exception as error:
        # Of any kind: http.client raises errors of its own, whose text may hold the address.
        reason = getattr(error, "reason", None)
        return [f"{shown(webhook)} ({reason if isinstance(reason, OSError) else type(error).__name__})"]
