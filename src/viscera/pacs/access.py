"""How a DICOMweb service is reached: its address, and the files with the secrets and certificates for it."""

from __future__ import annotations

import netrc
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from viscera.core.errors import ConfigError, MissingExtraError
from viscera.pacs.tls import TlsFiles

_LONGEST_SECRET_BYTES = 65_536


@dataclass(frozen=True, kw_only=True)
class Access:
    """How a DICOMweb service is reached.

    Attributes:
        url: Its root, below which /studies lies.
        token_file: Holds a bearer token.
        netrc_file: Holds user and password of the host, as curl and ftp read it.
        tls: Certificates.
        most_bytes: Of one series.
    """

    url: str
    token_file: Path | None = None
    netrc_file: Path | None = None
    tls: TlsFiles | None = None
    most_bytes: int = 8 * 2**30

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ConfigError(
                "reading the address of the PACS",
                expected="a URL such as http://127.0.0.1:8042/dicom-web",
                got=repr(self.url),
                remedy="Correct --dicomweb",
            )
        if parts.username or parts.password:
            raise ConfigError(
                "reading the address of the PACS",
                expected="a URL without user and password, which others on this machine could see",
                got="one with them",
                remedy="Put them into a file and give it with --netrc",
            )

    @property
    def in_clear(self) -> bool:
        """Whether a secret would travel unencrypted to another machine."""
        parts = urlsplit(self.url)
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        return parts.scheme == "http" and not local and (self.token_file or self.netrc_file) is not None


def open_session(access: Access) -> Any:
    """Return a session of requests that uses the secrets and certificates of `access`, and nothing else.

    Raises:
        MissingExtraError: If requests is not installed.
        ConfigError: If a file of secrets or certificates cannot be used.
    """
    try:
        from requests import Session
    except ImportError as error:
        raise MissingExtraError(
            "talking to a PACS", expected="requests", got="no such package", remedy="Run: pip install 'viscera[pacs]'"
        ) from error
    session = Session()
    session.trust_env = False
    session.max_redirects = 0
    _authenticate(session, access)
    if access.tls is not None:
        _set_certificates(session, access.tls)
    return session


def read_secret(path: Path) -> str:
    """Return the text of a file of secrets without outer white space.

    Raises:
        ConfigError: If it cannot be read, is empty or long, or others than its owner can read it.
    """
    doing = f"reading {path}"
    try:
        mode = path.stat().st_mode
        with path.open("rb") as file:
            text = file.read(_LONGEST_SECRET_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "something that is no text"
        raise ConfigError(doing, expected="a readable file", got=got, remedy="Check the path") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(
            doing,
            expected="a file of secrets that only its owner can read",
            got=f"mode {mode & 0o777:o}",
            remedy=f"Run: chmod 600 {path}",
        )
    if not text.strip():
        raise ConfigError(doing, expected="a token or password", got="an empty file", remedy="Write it into the file")
    return text.strip()


def _authenticate(session: Any, access: Access) -> None:
    if access.token_file is not None:
        token = read_secret(access.token_file)
        if not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError(
                f"reading {access.token_file}",
                expected="one token",
                got="something with spaces or lines",
                remedy="Leave nothing but the token in the file",
            )
        session.headers["Authorization"] = f"Bearer {token}"
    if access.netrc_file is not None:
        read_secret(access.netrc_file)
        host = urlsplit(access.url).hostname or ""
        try:
            entry = netrc.netrc(access.netrc_file).authenticators(host)
        except (OSError, netrc.NetrcParseError) as error:
            raise ConfigError(
                f"reading {access.netrc_file}",
                expected="lines such as: machine HOST login USER password PASSWORD",
                got="something else",
                remedy="Correct the file",
            ) from error
        if entry is None:
            raise ConfigError(
                f"reading {access.netrc_file}", expected=f"an entry for {host}", got="none", remedy="Add one"
            )
        session.auth = (entry[0], entry[2] or "")


def _set_certificates(session: Any, tls: TlsFiles) -> None:
    for path in (tls.authorities, tls.certificate, tls.key):
        if path is not None and not path.is_file():
            raise ConfigError("setting up TLS", expected="a PEM file", got=str(path), remedy="Check the path")
    if tls.authorities is not None:
        session.verify = str(tls.authorities)
    if tls.certificate is not None:
        session.cert = str(tls.certificate) if tls.key is None else (str(tls.certificate), str(tls.key))
