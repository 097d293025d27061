"""Fetches over HTTP with requests, from servers that may be slow, broken or hostile.

Importing this costs 20 ms and 4 MB beside python-tuf, 75 ms and 13 MB alone: only where it is used.
"""

from __future__ import annotations

import email.utils
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from urllib3.exceptions import HTTPError, LocationValueError, ProtocolError, ReadTimeoutError

from edged.errors import FetchError
from edged.models.httpleash import Leash, LeashedSession
from edged.models.source import Body, ContentRange, Patience
from edged.redact import redacted

_MAX_REDIRECTS = 3
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_PIECE_BYTES = 64 * 1024
_LONGEST_RETRY_AFTER_S = 24 * 3600.0


class HttpSource:
    """A web server, bucket or CDN.

    Args:
        agent: name and version of this program, for the server's log.
        proxies: scheme to URL; the environment's (`https_proxy`, `no_proxy`) where it is None.
        ca_file: certificates to trust instead of the usual ones.
        cert_files: certificate and key to show.
    """

    def __init__(
        self,
        agent: str = "edged",
        *,
        proxies: Mapping[str, str] | None = None,
        ca_file: str | None = None,
        cert_files: tuple[str, str] | None = None,
    ) -> None:
        self._agent = agent
        self._proxies = proxies
        self._ca_file = ca_file
        self._cert_files = cert_files

    @contextmanager
    def open(
        self, url: str, patience: Patience, *, start_bytes: int = 0, validator: str = ""
    ) -> Iterator[Body]:
        """See `Source.open`. Each request has a connection of its own: there are few."""
        patience.check()
        headers = {
            # What is signed has a length; what inflates has none.
            "Accept-Encoding": "identity",
            "User-Agent": self._agent,
        }
        if start_bytes:
            headers["Range"] = f"bytes={start_bytes}-"
            if validator:
                headers["If-Range"] = validator
        with Leash(patience) as leash, self._session(leash) as session, ExitStack() as stack:
            try:
                response = stack.enter_context(self._follow(session, url, headers, patience))
                if start_bytes and _range_is_useless(response, start_bytes):
                    del headers["Range"]
                    headers.pop("If-Range", None)
                    response = stack.enter_context(self._follow(session, url, headers, patience))
                _check_status(response, url)
                body = _body(response, leash, url)
            # ValueError: a length, say, of more digits than Python reads.
            except (requests.RequestException, HTTPError, OSError, ValueError) as error:
                raise leash.cause or _explain(error, url) from error
            # Not within the try: what the caller does with the body is no fault of the network.
            yield body

    @contextmanager
    def _session(self, leash: Leash) -> Iterator[requests.Session]:
        with LeashedSession(leash) as session:
            if self._proxies is not None:
                session.trust_env = False
                session.proxies = dict(self._proxies)
            session.cert = self._cert_files
            yield session

    def _follow(
        self, session: requests.Session, url: str, headers: Mapping[str, str], patience: Patience
    ) -> requests.Response:
        limits = patience.limits
        for _ in range(_MAX_REDIRECTS + 1):
            response = session.get(
                url,
                headers=headers,
                stream=True,
                allow_redirects=False,
                timeout=(limits.connect_s, limits.silence_s),
                # Not the session's: REQUESTS_CA_BUNDLE of the environment would win.
                verify=self._ca_file or True,
            )
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = _redirected(url, response.headers.get("Location", ""))
        raise FetchError(
            "redirect_loop", f"more than {_MAX_REDIRECTS} redirects, the last to {redacted(url)}."
        )


def _redirected(url: str, location: str) -> str:
    """To http and https only, never from https to http, nor from outside into this machine."""
    try:
        target = urljoin(url, location)
        here, there = urlsplit(url), urlsplit(target)
        inside = [_is_inside(place.hostname) for place in (here, there)]
        schemes = ("https",) if here.scheme == "https" else ("http", "https")
        allowed = there.scheme in schemes and there.hostname and (inside[0] or not inside[1])
    except ValueError:
        allowed = False
    if not allowed:
        raise FetchError(
            "redirect_refused",
            f"{redacted(url)} redirects to {redacted(location)[:200]}, where it must not.",
        )
    return target


def _is_inside(host: str | None) -> bool:
    name = (host or "").partition("%")[0].removesuffix(".")  # without an interface's name
    try:
        # As the resolver reads it: 127.1 and 0x7f000001 are addresses too.
        packed = socket.inet_pton(socket.AF_INET6, name) if ":" in name else socket.inet_aton(name)
    except OSError:
        return name == "localhost" or name.endswith(".localhost")
    address = ipaddress.ip_address(packed)
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_link_local or address.is_unspecified


def _range_is_useless(response: requests.Response, start_bytes: int) -> bool:
    """Whether the server answered a Range with something that the whole must be asked for."""
    if response.status_code == requests.codes.requested_range_not_satisfiable:
        return True
    if response.status_code != requests.codes.partial_content:
        return False
    given = ContentRange.parse(response.headers.get("Content-Range", ""))
    return given is None or given.start_bytes != start_bytes


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    where = f"{redacted(url)} (HTTP {status})"
    if status in (200, 206):
        return
    wait_s = _retry_after_s(response.headers)
    if status in (404, 410):
        raise FetchError("not_found", f"the server does not have {where}.")
    if status in (401, 403):
        raise FetchError("access_denied", f"the server does not give out {where}.")
    if status == requests.codes.proxy_authentication_required:
        raise FetchError("proxy_failed", f"the proxy wants a password for {where}.")
    if status == requests.codes.too_many_requests or (status == 503 and wait_s is not None):
        raise FetchError(
            "server_busy", f"the server wants to be left alone: {where}.", retry_after_s=wait_s
        )
    if status >= 500:
        raise FetchError("server_failed", f"the server failed: {where}.")
    raise FetchError("status_unexpected", f"the server's answer makes no sense: {where}.")


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), _LONGEST_RETRY_AFTER_S)
    try:
        # By the server's own clock: ours may be wrong.
        until = email.utils.parsedate_to_datetime(text)
        asked = email.utils.parsedate_to_datetime(headers.get("Date", ""))
        return min(max((until - asked).total_seconds(), 0.0), _LONGEST_RETRY_AFTER_S)
    except (TypeError, ValueError, OverflowError):
        return None


def _body(response: requests.Response, leash: Leash, url: str) -> Body:
    headers = response.headers
    encoding = headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise FetchError(
            "content_encoded",
            f"{redacted(url)} comes encoded ({encoding[:20]}), which was not asked for.",
            advice="Switch compression off for what edged fetches.",
        )
    length = headers.get("Content-Length", "")
    expected = int(length) if length.isascii() and length.isdigit() else None
    start, total = 0, expected
    if response.status_code == requests.codes.partial_content:
        given = ContentRange.parse(headers.get("Content-Range", ""))
        if given is None:
            raise FetchError("status_unexpected", f"only a part of {redacted(url)}.")
        start, total = given.start_bytes, given.total_bytes
    etag = headers.get("ETag", "")
    # A weak validator promises no identical bytes; a date stands in for a missing one.
    validator = headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
    pieces = _pieces(response, leash, url)
    if "html" in headers.get("Content-Type", "").lower():
        pieces = _no_portal(pieces, url)
    return Body(start, total, validator if len(validator) <= 200 else "", pieces)


def _pieces(response: requests.Response, leash: Leash, url: str) -> Iterator[bytes]:
    while True:
        try:
            # What is there, at most: a reader that waits for more loses it when cut.
            piece = response.raw.read1(_PIECE_BYTES, decode_content=False)
        except (requests.RequestException, HTTPError, OSError, ValueError) as error:
            raise leash.cause or _explain(error, url) from error
        if leash.cause:
            raise leash.cause
        if not piece:
            return
        leash.count(len(piece))
        yield piece


def _no_portal(pieces: Iterator[bytes], url: str) -> Iterator[bytes]:
    first = next(pieces, b"")
    if first.lstrip()[:1] == b"<":
        raise FetchError(
            "captive_portal",
            f"instead of {redacted(url)} came a web page: is this a network that wants a log-in?",
        )
    yield first
    yield from pieces


def _explain(error: Exception, url: str) -> FetchError:  # noqa: PLR0911 - a table
    where = redacted(url)
    if isinstance(error, requests.exceptions.SSLError):
        return FetchError(
            "server_not_trusted",
            f"no trusted connection to {where}: {redacted(str(error))[:200]}.",
            advice="Look at the clock and at ca_file.",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return FetchError("proxy_failed", f"the proxy does not lead to {where}.")
    if isinstance(error, InvalidURL | InvalidSchema | MissingSchema | LocationValueError):
        return FetchError("url_invalid", f"not a URL that can be fetched: {where}.")
    if isinstance(error, ValueError):
        return FetchError("status_unexpected", f"the server's answer makes no sense: {where}.")
    if isinstance(error, requests.exceptions.ReadTimeout | ReadTimeoutError | TimeoutError):
        return FetchError("server_silent", f"{where} went silent.")
    if type(error) is OSError:  # requests looks for these files before it connects
        return FetchError("certificate_unreadable", f"cannot read ca_file or cert_files: {error}.")
    inner = error.args[0] if error.args else None
    if isinstance(error, ProtocolError) or isinstance(inner, ProtocolError):
        return FetchError("connection_lost", f"the connection was cut: {where}.")
    if isinstance(error, requests.exceptions.ConnectionError):
        return FetchError("server_unreachable", f"no connection to {where}.")
    return FetchError("connection_lost", f"{where}: {type(error).__name__}.")
