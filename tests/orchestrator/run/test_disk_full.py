"""A full disk ends a run in one line; other errors of a disk stay what they are."""

import errno
from pathlib import Path

import pytest

from channels.errors import UserError
from channels.files import is_disk_full
from orchestrator.run.disk_full import disk_full_as_user_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_no_room_is_said_in_one_line(number: int) -> None:
    assert is_disk_full(OSError(number, "no room"))
    expected = pytest.raises(UserError, match="runs/a/events: the disk is full; free some space")
    with expected as refused, disk_full_as_user_error(Path("runs/a/events")):
        raise OSError(number, "no room")
    assert "\n" not in str(refused.value)


def test_other_errors_stay() -> None:
    with pytest.raises(PermissionError), disk_full_as_user_error(Path("events")):
        raise PermissionError(errno.EACCES, "denied")
