"""Where the service's sandbox shows it nothing, whatever the mode of the files. Pure."""

from __future__ import annotations

import posixpath

# `ProtectHome=yes` in systemd/edged.service.
_HIDDEN = ("/home", "/root", "/run/user")


def hidden_below(path: str) -> str:
    """Return the directory under which the service's unit sees nothing of this path, or ""."""
    plain = "/" + posixpath.normpath(path).lstrip("/") if path.startswith("/") else ""
    return next((top for top in _HIDDEN if f"{plain}/".startswith(f"{top}/")), "")


def let_it_be_read(path: str) -> str:
    """Return what to do about a file or folder that may not be read."""
    top = hidden_below(path)
    if not top:
        return "Let the user that runs edged read it."
    return (
        f"As a service edged sees nothing below {top}, whatever the mode: put it below /etc/edged,"
        " /srv or /var/lib."
    )
