"""The one error a user is meant to read."""

_MOST_LETTERS = 200


class UserError(ValueError):
    """Bad input, in one line: what is wrong, where (file, field, value) and how to mend it.

    Every room raises it for what a user can mend; the command line prints its text and exits with code 2.
    Anything else that is raised is a defect of Wavetrain and keeps its traceback.
    """

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        parts = [f"{where}: {what}" if where else what]
        if mend:
            parts.append(mend)
        super().__init__("; ".join(" ".join(part.split()) for part in parts))


def reason_of(error: Exception) -> str:
    """Why something could not be read, short enough for a line: of wrong bytes an error holds all that was read."""
    if isinstance(error, UnicodeDecodeError):
        return f"no {error.encoding} text: {error.reason} at byte {error.start}"
    text = repr(error)
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."
