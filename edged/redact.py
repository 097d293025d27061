"""Takes credentials out of URLs before anyone sees them. Pure."""

from __future__ import annotations

import re

# A text that begins with a URL is one URL to its end, as passwords with spaces exist.
_URL = re.compile(r"^[a-z][a-z0-9+.-]*://.+|[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE | re.DOTALL)
# Up to the last "@" of all, as passwords with an unescaped "@", "/" or "?" are common.
_USER_INFO = re.compile(r"^([^:]+://).*@", re.DOTALL)
# Cameras take credentials in the query (`?usr=a&pwd=b`) or in the path (`/user=a_password=b_`).
_SECRET_FIELD = re.compile(
    r"((?:user|pass|pwd|usr|token|auth|secret|apikey|api_key|key)[a-z]*=)"
    r"(?:(?!_[a-z]+=)[^&;\s])+",
    re.IGNORECASE,
)
# Query keys that name a stream, not a person or a secret; every other value is hidden.
_HARMLESS = frozenset(
    (
        *("action", "camera", "ch", "channel", "profile", "stream", "subtype"),
        *("fps", "height", "quality", "resolution", "width"),
    )
)


def redacted(text: str) -> str:
    """Return a source, a URL or a sentence that quotes one, with credentials replaced by `***`.

    Where it cannot tell, it hides too much rather than too little: all before the last `@`,
    fragments, and the value of each query key not known to be harmless.
    """
    return _URL.sub(lambda match: _one(match.group()), text)


def _one(url: str) -> str:
    # Fields first: an "@" within one would end what looks like the user's part too early.
    url = _USER_INFO.sub(r"\1***@", _SECRET_FIELD.sub(r"\1***", url))
    place, mark, query = url.partition("#")[0].partition("?")
    return place + mark + "&".join(_field(field) for field in query.split("&"))


def _field(field: str) -> str:
    key, equals, value = field.partition("=")
    if not equals:
        return "***" if key else ""
    return key + equals + (value if key.lower() in _HARMLESS or not value else "***")
