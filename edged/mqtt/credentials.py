"""What proves who is who: the password and the TLS context, read anew for each connection.

So a rotated password or certificate is taken up without a restart, but for what the service
manager hands over (`LoadCredential=`), which it reads when the service starts.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

from edged.config import MqttConfig
from edged.errors import DeviceError

_VARIABLE = "CREDENTIALS_DIRECTORY"
_STORE = "/etc/credstore"
SECRET_FILES = ("password_file", "ca_file", "cert_file", "key_file")


class TlsSocket(ssl.SSLSocket):
    """Closes itself after a failed handshake, which paho forgets, and keeps why reading failed.

    In TLS 1.3 a broker refuses the client's certificate only after the handshake.

    Attributes:
        trouble: the error that ended the reading, if one did.
    """

    trouble: ssl.SSLError | None = None

    def do_handshake(self, block: bool = False) -> None:
        """As in `ssl.SSLSocket`, and close where it fails."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """As in `ssl.SSLSocket`, and keep the error in `trouble`."""
        try:
            return super().recv(buflen, flags)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.trouble = error
            raise


def outside_unit(config: MqttConfig) -> tuple[MqttConfig, str]:
    """Return the table for another process than the service, and which file that one alone has.

    What the service manager hands over is looked for where the unit's `LoadCredential=` takes it
    from. A file that is simply missing the service misses as well.

    Args:
        config: `[mqtt]`.

    Returns:
        The table, and the first file, as it is configured, that this process may not read; or "".
    """
    places: dict[str, Any] = {}
    withheld = ""
    for key in SECRET_FILES:
        named = getattr(config, key)
        if named is None:
            continue
        handed_over = _VARIABLE not in os.environ and f"${_VARIABLE}" in named
        places[key] = named.replace(f"${_VARIABLE}", _STORE, 1) if handed_over else named
        try:
            with Path(places[key]).open("rb"):
                continue
        except PermissionError:
            withheld = withheld or named
        except OSError:
            if handed_over:  # a drop-in may take it from elsewhere
                withheld = withheld or named
    return replace(config, **places), withheld


def read_password(path: str | None) -> str | None:
    """Return the first line of the file, without its newline; None without a file.

    Raises:
        DeviceError: `broker_password_unreadable`.
    """
    if path is None:
        return None
    try:
        lines = Path(_placed(path)).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DeviceError(
            "broker_password_unreadable", f"Cannot read password_file {path}: {_words(error)}."
        ) from error
    return lines[0] if lines else ""


def tls_context(config: MqttConfig) -> ssl.SSLContext:
    """Return a context that trusts only `ca_file` and shows the client certificate, if any.

    Raises:
        DeviceError: `broker_certificate_unreadable`.
    """
    # Not create_default_context: from Python 3.13 it demands extensions that many a private CA
    # does not write.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.sslsocket_class = TlsSocket
    path = config.ca_file
    try:
        context.load_verify_locations(config.ca_file)
        if config.cert_file is not None:
            path = f"{config.cert_file} or {config.key_file}"
            # The empty password: an encrypted key is an error, not a question at a terminal.
            key = _placed(config.key_file)
            context.load_cert_chain(_placed(config.cert_file), key, password="")
    except OSError as error:  # ssl.SSLError is one
        raise DeviceError(
            "broker_certificate_unreadable", f"Cannot use {path}: {_words(error)}."
        ) from error
    return context


def _placed(path: str | None) -> str:
    """Return where a configured file is: `$CREDENTIALS_DIRECTORY` is what systemd says it is."""
    return (path or "").replace(f"${_VARIABLE}", os.environ.get(_VARIABLE, f"${_VARIABLE}"), 1)


def _words(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
