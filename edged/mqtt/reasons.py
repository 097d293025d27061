"""Why there is no connection with the broker: from codes and exceptions to words.

Each function returns a `DeviceError` with a stable reason slug, a sentence for the person who
reads it and, where something can be done, the advice. No I/O.
"""

from __future__ import annotations

import ssl

from edged.errors import DeviceError

# Before CONNACK these may mean: not this version of the protocol.
MAYBE_VERSION = ("broker_refused_version", "broker_closed", "broker_timeout")

# CONNACK, MQTT 5 section 3.2.2.2; paho translates the five codes of MQTT 3.1.1 to these.
_REFUSALS: dict[int, tuple[str, str]] = {
    0x84: ("broker_refused_version", "Set version under [mqtt] to the one the broker speaks."),
    0x85: ("broker_refused_client_id", "Its client id is the device id: set another device_id."),
    0x86: ("broker_refused_credentials", "Check username and password_file under [mqtt]."),
    0x87: ("broker_refused_not_authorised", "Check the credentials and the broker's permissions."),
    0x88: ("broker_unavailable", ""),
    0x89: ("broker_unavailable", ""),
    0x8A: ("broker_refused_banned", "The broker has banned this device."),
    0x8C: ("broker_refused_credentials", "Check username and password_file under [mqtt]."),
    0x9F: ("broker_unavailable", ""),
}
# DISCONNECT sent by a broker, MQTT 5 section 3.14.2.1.
_ENDINGS: dict[int, tuple[str, str]] = {
    0x87: ("broker_refused_not_authorised", "Check the broker's permissions for this device."),
    0x89: ("broker_unavailable", ""),
    0x8B: ("broker_unavailable", ""),
    0x8D: ("broker_timeout", ""),
    0x8E: ("broker_taken_over", "Another client has the same device id: each needs its own."),
}
# X509_V_ERR_* of OpenSSL.
_CERTIFICATE: dict[int, tuple[str, str]] = {
    9: (
        "the broker's certificate is not valid yet",
        "This device's clock is probably behind: check it with timedatectl.",
    ),
    10: (
        "the broker's certificate has expired",
        "Renew it, or, if it has not, correct this device's clock: see timedatectl.",
    ),
    18: ("the broker's certificate is self-signed", "Give that certificate as ca_file."),
    19: ("the broker's certificate comes from an unknown CA", "ca_file must be the CA's."),
    20: ("the broker's certificate comes from an unknown CA", "ca_file must be the CA's."),
    21: ("the broker's certificate comes from an unknown CA", "ca_file must be the CA's."),
    62: ("the broker's certificate is for another host name", "Set host to a name it carries."),
    64: ("the broker's certificate does not carry this IP address", "Set host to a name it has."),
}
_ALERTS: tuple[tuple[str, str, str], ...] = (
    (
        "CERTIFICATE_REQUIRED",
        "the broker asks for a client certificate",
        "Set cert_file and key_file under [mqtt].",
    ),
    ("ALERT_UNKNOWN_CA", "the broker does not know the CA of this device's certificate", ""),
    ("ALERT_CERTIFICATE_EXPIRED", "the broker says this device's certificate has expired", ""),
    ("ALERT_CERTIFICATE_REVOKED", "the broker says this device's certificate is revoked", ""),
    ("ALERT_BAD_CERTIFICATE", "the broker rejects this device's certificate", ""),
    (
        "HANDSHAKE_FAILURE",
        "the broker ended the TLS handshake",
        "It may ask for a client certificate: set cert_file and key_file under [mqtt].",
    ),
    ("WRONG_VERSION_NUMBER", "the broker does not speak TLS on this port", "Check the port."),
    (
        "RECORD_LAYER_FAILURE",
        "the broker does not speak TLS on this port",
        "Check the port.",
    ),
)


def refused(code: int, name: str) -> DeviceError:
    """Return what a CONNACK with the given reason code (0x80 and above) means."""
    reason, advice = _REFUSALS.get(code, ("broker_refused", ""))
    return DeviceError(reason, f"The broker refused the connection: {name}.", advice=advice)


def disconnected(code: int, name: str) -> DeviceError:
    """Return what a DISCONNECT from the broker (MQTT 5) with the given reason code means."""
    reason, advice = _ENDINGS.get(code, ("broker_closed", ""))
    return DeviceError(reason, f"The broker ended the connection: {name}.", advice=advice)


def closed(*, accepted: bool, tls: bool) -> DeviceError:
    """Return the error for a connection that ended without a word.

    Args:
        accepted: whether the broker had accepted it before.
        tls: whether it was encrypted.
    """
    if accepted:
        # What most brokers do without a word when another client comes with the same id.
        advice = "If that goes on, another client may have the same device id."
        return DeviceError(
            "broker_closed", "The connection with the broker was lost.", advice=advice
        )
    advice = "" if tls else "Is this its port for TLS? Then set ca_file under [mqtt]."
    return DeviceError(
        "broker_closed", "The broker closed the connection without an answer.", advice=advice
    )


def silent(what: str, limit_s: float) -> DeviceError:
    """Return the error for a broker that did not answer with `what` within `limit_s` seconds."""
    return DeviceError("broker_timeout", f"The broker sent no {what} within {limit_s:g} s.")


def frozen() -> DeviceError:
    """Return the error for a broker that stopped answering pings."""
    return DeviceError("broker_timeout", "The broker stopped answering.")


def unreachable(error: Exception, *, host: str, port: int, tls: bool) -> DeviceError:
    """Return what an exception from connecting, or from the TLS layer below it, means."""
    where = f"{host}:{port}"
    if isinstance(error, ssl.SSLError):
        return _tls(error, where)
    if isinstance(error, TimeoutError):
        return DeviceError("broker_timeout", f"No answer from {where}.")
    if isinstance(error, ConnectionRefusedError):
        return DeviceError(
            "broker_unreachable",
            f"Nothing listens on {where}.",
            advice="Check host and port under [mqtt], and that the broker runs.",
        )
    if isinstance(error, ConnectionError):
        advice = "Does it speak TLS on this port? Check port under [mqtt]." if tls else ""
        return DeviceError("broker_closed", f"{where} closed the connection.", advice=advice)
    words = getattr(error, "strerror", None) or str(error)
    return DeviceError("broker_unreachable", f"Cannot reach {where}: {words}.")


def _tls(error: ssl.SSLError, where: str) -> DeviceError:
    words, advice = str(getattr(error, "reason", None) or error), ""
    if isinstance(error, ssl.SSLCertVerificationError):
        words, advice = _CERTIFICATE.get(error.verify_code, (error.verify_message, ""))
    else:
        for mark, meaning, what_to_do in _ALERTS:
            if mark in words:
                words, advice = meaning, what_to_do
                break
    return DeviceError("broker_tls_failed", f"No TLS with {where}: {words}.", advice=advice)
