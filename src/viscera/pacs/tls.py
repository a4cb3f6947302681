"""TLS for DICOM associations: certificates from files, never weaker than the interpreter's defaults."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from viscera.core.errors import ConfigError

# For a handshake and for every wait for bytes; without it a silent peer would keep a thread for ever.
SOCKET_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files: our certificate and its key, and the authorities whose certificates are accepted.

    Attributes:
        certificate, key: Ours; a listener must have both, a sender shows them if it has.
        authorities: Peers must show a certificate signed by one of these; None for the system's authorities when
            sending, and for any peer when listening.
    """

    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None


class _PatientContext(ssl.SSLContext):
    """Leaves the handshake to the thread of the association, so that a silent peer does not keep others out."""

    def wrap_socket(self, sock: Any, **options: Any) -> ssl.SSLSocket:  # type: ignore[override]
        sock.settimeout(SOCKET_SECONDS)
        return super().wrap_socket(sock, do_handshake_on_connect=False, **options)


def listening_context(files: TlsFiles) -> ssl.SSLContext:
    """What a listener talks TLS with; if `files` names authorities, peers must show a certificate.

    Raises:
        ConfigError: If a file is missing, is no PEM file, or key and certificate do not fit.
    """
    if files.certificate is None or files.key is None:
        raise ConfigError(
            "setting up TLS",
            expected="a certificate and its key",
            got="one without the other",
            remedy="Give both --tls-cert and --tls-key",
        )
    context = _PatientContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, files)
    if files.authorities is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def sending_context(files: TlsFiles) -> ssl.SSLContext:
    """What a sender talks TLS with: the peer's certificate and host name are checked.

    Raises:
        ConfigError: If a file is missing, is no PEM file, or key and certificate do not fit.
    """
    context = ssl.create_default_context()
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        if files.certificate is not None:
            context.load_cert_chain(files.certificate, files.key, password=_no_password)
        if files.authorities is not None:
            context.load_verify_locations(files.authorities)
    except (OSError, ValueError) as error:
        raise ConfigError(
            "setting up TLS",
            expected="readable PEM files whose key fits the certificate and has no password",
            got=str(error),
            remedy="Check --tls-cert, --tls-key and --tls-ca",
        ) from error


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal, and a service would wait for ever.
    return ""
