"""Windows that nobody judges: every camera is warming up. Pure."""

from __future__ import annotations

from edged.drift.window import Subject, Tally, Window


class Unjudged:
    """Takes windows and says nothing about them."""

    def window(self, window: Window) -> None:
        """Take a window."""

    def minute(self, subject: Subject, tally: Tally, at_ms: int) -> None:
        """Take a minute."""

    def obey(self, camera: str, action: str, at_ms: int) -> None:
        """There is nothing to do."""

    def standing(self, camera: str) -> dict[str, object]:
        """Return that the camera is warming up."""
        return {"camera": camera, "state": "warming", "since": 0, "reasons": []}
