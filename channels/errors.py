"""The one error a user is meant to read."""


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
