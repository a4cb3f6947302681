"""A server of one page to this machine's own browser, and to nobody else.

It listens on 127.0.0.1 only; every address begins with a random token, without which there is nothing; a request for
another host than this machine itself (a web site that let its name point here) is refused; only what was handed over
is served, no folder. The port in the request does not matter: a tunnel has another one, and a web site's own name is
refused with any.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import secrets
import socketserver
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from viscera.core.errors import ConfigError, reason
from viscera.viewer.nifti_image import NiftiImage

ADDRESS = "127.0.0.1"
_TOKEN_BYTES = 24
_TIMEOUT_SECONDS = 60.0

# Nothing from elsewhere, no script within the page, no frame around it; NiiVue holds its font as a picture in data.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data: blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# A request's Host: a name or an address, one of IPv6 in brackets, and a port if it is not the usual one.
_HOST = re.compile(r"(?P<name>[a-z0-9.-]+|\[(?P<six>[0-9a-f:.]+)\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII)

# What a page says of itself where it is not shown; nothing of the request comes back.
_EXPLAINED = {
    HTTPStatus.FORBIDDEN: f"""\
viscera shows this page only under an address of this machine itself: {ADDRESS}, localhost or [::1], with any port.
The address in your browser has another name, as a web site would have that tries to read the scan.
To look at it from another machine, open a tunnel (ssh -L 8642:{ADDRESS}:PORT SERVER, with the port that viscera
printed), and in the printed address replace that port by 8642.
""",
    HTTPStatus.NOT_FOUND: """\
There is nothing at this address. Each run of `viscera view` has a new one: open all of the address it printed last.
""",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """What one address answers with."""

    media_type: str
    body: bytes | NiftiImage

    @property
    def size_bytes(self) -> int:
        """The length of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body.size_bytes


class ViewerServer(socketserver.ThreadingTCPServer):
    """Serves `items` by name below a new token; the one named "" is the page. Listens once made.

    Args:
        items: What there is.
        port: To listen on, 0 for any free one.

    Raises:
        ConfigError: If the port cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, items: Mapping[str, Item], port: int = 0) -> None:
        self._token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._items = {f"/{self._token}/{name}": item for name, item in items.items()}
        try:
            super().__init__((ADDRESS, port), _Handler)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                "opening the viewer's port",
                expected=f"a free port of {ADDRESS}",
                got=f"{port}: {reason(error)}",
                remedy="Give another --port, or none for any free one",
            ) from error
        self.port = int(self.server_address[1])

    @property
    def url(self) -> str:
        """The page's address, token included."""
        return f"http://{ADDRESS}:{self.port}/{self._token}/"

    def item(self, path: str) -> Item | None:
        """What is at `path`, the address as it was asked for; None if nothing."""
        return self._items.get(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs that a connection broke, which a browser may do at any time."""
        _log.debug("a connection ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: ViewerServer
    timeout = _TIMEOUT_SECONDS
    server_version = "viscera"
    sys_version = ""

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def _answer(self) -> None:
        names = self.headers.get_all("Host", [])
        if len(names) != 1 or not is_this_machine(names[0]):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        item = self.server.item(self.path)
        if item is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        self._send_head(HTTPStatus.OK, item.media_type, item.size_bytes)
        if self.command == "HEAD":
            return
        if isinstance(item.body, bytes):
            self.wfile.write(item.body)
        else:
            for chunk in item.body.chunks():
                self.wfile.write(chunk)

    def _send_head(self, status: HTTPStatus, media_type: str, size_bytes: int) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers with the status and what it means; nothing of the request comes back."""
        status = HTTPStatus(code)
        explained = f"\n{_EXPLAINED[status]}" if status in _EXPLAINED else ""
        text = f"{status.value} {status.phrase}\n{explained}".encode()
        self._send_head(status, "text/plain; charset=utf-8", len(text))
        if self.command != "HEAD":
            self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing: a line would hold the token."""


def is_this_machine(host: str) -> bool:
    """Whether a request's Host names this machine itself, with whichever port: localhost, 127.x.x.x or [::1].

    A browser sends what stands in its address. A name of the internet may point to 127.0.0.1, but stays that name.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    if found["name"].lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(found["six"] or found["name"]).is_loopback
    except ValueError:  # a name
        return False
