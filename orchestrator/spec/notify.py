"""The section of a profile that says who hears of the end of a run."""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from orchestrator.spec.section import Section

Event = Literal["failed", "preempted", "finished"]
EVENTS: tuple[Event, ...] = ("failed", "preempted", "finished")


class NotifySection(Section):
    """What is called when a run ends; nothing where neither a command nor a webhook is given."""

    command: str | None = None
    """A shell line; it finds event, run, cause and link in its environment (``WAVETRAIN_EVENT`` and so on)."""
    webhook: str | None = Field(default=None, repr=False)
    """An http or https address that gets them as JSON. It may hold a token, so no message shows its path."""
    on: tuple[Event, ...] = EVENTS
    """Which events are sent."""

    @model_validator(mode="before")
    @classmethod
    def _addressed(cls, fields: Any) -> Any:
        """Of the whole section, because the error of a single field would show its value."""
        webhook = fields.get("webhook") if isinstance(fields, dict) else None
        if webhook is not None and not _is_address(webhook):
            raise ValueError("notify.webhook is no http or https address, e.g. https://chat.example/hooks/TOKEN")
        return fields


def shown(webhook: str) -> str:
    """An address without user, path and query, which may hold a secret."""
    parts = urlsplit(webhook)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}/..."


def _is_address(webhook: object) -> bool:
    if not isinstance(webhook, str) or not webhook.isprintable() or " " in webhook:
        return False
    try:
        parts = urlsplit(webhook)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
