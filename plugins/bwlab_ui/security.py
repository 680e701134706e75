"""Who may use the server: this machine, or who knows the password; and no other site through a browser.

Every request must name a host that is ours (another name may be a rebound one), every request that changes something
must come from our own page (its Origin), and with a password every request needs the cookie of a login.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from bwlab.errors import BwlabError
from bwlab_ui.work import error_document

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LEAST_PASSWORD = 8
"""Number of characters of the shortest password."""
READS = ("GET", "HEAD")
OPEN = ("/login", "/login.js", "/style.css")
"""Paths that need no cookie: what the page with the password's field is made of."""
LOCAL = ("localhost", "127.0.0.1", "::1")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Return whether a host is written as a number; another site's name cannot be rebound to it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Password:
    """A password, kept as a salted hash, and the cookies of who has given it.

    Attributes:
        digest: its hash by scrypt.
        salt: the salt of the hash.
        cookies: hashes of the values of the cookies.

    """

    digest: bytes
    salt: bytes
    cookies: set[bytes] = field(default_factory=set)

    @classmethod
    def of(cls, text: str) -> Password:
        """Return a password; `BwlabError` if it is too short."""
        if len(text) < LEAST_PASSWORD:
            fix = f"Choose at least {LEAST_PASSWORD} characters"
            raise BwlabError("the password of bwlab ui", f"it has {len(text)} characters", fix)
        salt = secrets.token_bytes(16)
        return cls(_hash(text, salt), salt)

    def matches(self, text: str) -> bool:
        """Return whether a text is the password, in a time that does not depend on where they differ."""
        return hmac.compare_digest(_hash(text, self.salt), self.digest)

    def new_cookie(self) -> str:
        """Return the value of the cookie of a new login."""
        value = secrets.token_urlsafe(32)
        self.cookies.add(_short_hash(value))
        return value

    def knows(self, value: str) -> bool:
        """Return whether a cookie is one of a login."""
        return _short_hash(value) in self.cookies  # how long this takes says something of the hashes only


def _hash(text: str, salt: bytes) -> bytes:
    return hashlib.scrypt(text.encode("utf-8", "surrogatepass"), salt=salt, n=2**14, r=8, p=1)


def _short_hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True)
class Access:
    """Who may use a server.

    Attributes:
        host: the host that it listens on.
        port: its port.
        password: the password; None: none is asked for.

    """

    host: str
    port: int
    password: Password | None = None

    @property
    def cookie(self) -> str:
        """The name of the cookie; browsers do not keep those of several ports apart."""
        return f"bwlab_ui_{self.port}"

    def refused(self, method: str, path: str, headers: Iterable[tuple[bytes, bytes]]) -> tuple[int, BwlabError] | None:
        """Return why a request is refused, with the status of the answer; None if it is allowed."""
        given = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
        host = given.get("host", "")
        if not self._is_ours(host):
            fix = "Open the address that bwlab ui prints"
            return 421, BwlabError(f"the host {host[:100]!r}", "it is not this server's", fix)
        origin = given.get("origin")
        if (method not in READS or origin is not None) and origin != f"http://{host}":
            fix = "Use the page that this server shows"
            return 403, BwlabError(f"a request from {str(origin)[:100]}", "another site may not use this server", fix)
        if given.get("sec-fetch-site") in ("cross-site", "same-site") and path != "/":
            fix = "Use the page that this server shows"
            return 403, BwlabError("a request from another site", "it may not use this server", fix)
        if self.password is not None and path not in OPEN and not self.password.knows(self._cookie_in(given)):
            return 401, BwlabError("this page", "nobody has logged in", "Reload the page and give the password")
        return None

    def _is_ours(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or not port.isdecimal():
            name, port = host, "80"
        name = name.removeprefix("[").removesuffix("]").lower()
        if port != str(self.port):
            return False
        if is_loopback(self.host):
            return name in (*LOCAL, self.host.lower())
        return is_address(name) or name in ("localhost", self.host.lower(), socket.gethostname().lower())

    def _cookie_in(self, headers: dict[str, str]) -> str:
        try:
            cookies = SimpleCookie(headers.get("cookie", ""))
        except CookieError:
            return ""
        return cookies[self.cookie].value if self.cookie in cookies else ""


class Guard:
    """Refuses requests before the application sees them, and adds headers to every answer.

    Args:
        app: the application.
        access: who may use it.

    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self.access.refused(scope["method"], scope["path"], scope["headers"])

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                own = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in known]
                message = {**message, "headers": [*message["headers"], *own]}
            await send(message)

        if refusal is None:
            await self.app(scope, receive, send_with_headers)
            return
        status, error = refusal
        if status == 401 and scope["path"] == "/":
            start: Message = {"type": "http.response.start", "status": 303, "headers": [(b"location", b"/login")]}
            body = b""
        else:
            headers = [(b"content-type", b"application/json")]
            start = {"type": "http.response.start", "status": status, "headers": headers}
            body = json.dumps({"error": error_document(error)}).encode()
        await send_with_headers(start)
        await send({"type": "http.response.body", "body": body})
