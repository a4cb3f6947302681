"""TLS between a caller, the listener and a receiver; certificates made on the spot."""

import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("pynetdicom")

from pynetdicom import AE

from viscera.core.errors import ConfigError, TransferError
from viscera.pacs.queue import SeriesQueue
from viscera.pacs.scp import Listener, ListenerConfig
from viscera.pacs.scu import Destination, send_objects
from viscera.pacs.tls import TlsFiles, listening_context, sending_context

pytestmark = [
    pytest.mark.skipif(shutil.which("openssl") is None, reason="the program openssl is not installed"),
    pytest.mark.filterwarnings("ignore:unclosed <s:ResourceWarning"),
]


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=30)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority `ca.pem`; `ours.pem` and `peer.pem` signed by it; `stranger.pem`, signed by itself."""
    folder = tmp_path_factory.mktemp("certificates")
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    # Python 3.13 and later ask of authorities what RFC 5280, 4.2.1.1 and 4.2.1.3, asks of them.
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    (folder / "signed.cnf").write_text("authorityKeyIdentifier=keyid\n")
    for name in ("ca", "stranger"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl(folder, "req", "-x509", *curve, *files, "-days", "2", "-subj", f"/CN={name}", *names, *usage)
    for name in ("ours", "peer"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
        openssl(folder, "req", *curve, *files, "-subj", f"/CN={name}", *names)
        signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-copy_extensions", "copy"]
        signing += ["-extfile", "signed.cnf"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


def files(folder: Path, name: str | None, authorities: bool = True) -> TlsFiles:
    return TlsFiles(
        certificate=folder / f"{name}.pem" if name else None,
        key=folder / f"{name}.key" if name else None,
        authorities=folder / "ca.pem" if authorities else None,
    )


@pytest.fixture
def secure_port(tmp_path: Path, certificates: Path, ending: Callable[[Callable[[], None]], None]) -> Iterator[int]:
    """A listener that asks callers for certificates of the authority."""
    queue = SeriesQueue(tmp_path / "spool")
    listener = Listener(queue, ListenerConfig(aet="VISCERA", port=0, tls=files(certificates, "ours")))
    yield listener.start()
    ending(listener.stop)


def echo(port: int, tls: ssl.SSLContext | None) -> bool:
    entity = AE(ae_title="CALLER")
    entity.acse_timeout = 5
    entity.add_requested_context("1.2.840.10008.1.1")
    secure = None if tls is None else (tls, "127.0.0.1")
    association = entity.associate("127.0.0.1", port, ae_title="VISCERA", tls_args=secure)
    if not association.is_established:
        return False
    status = association.send_c_echo().get("Status")
    association.release()
    return bool(status == 0)


def test_a_caller_with_a_certificate_of_the_authority_is_heard(secure_port: int, certificates: Path) -> None:
    assert echo(secure_port, sending_context(files(certificates, "peer")))


@pytest.mark.parametrize("name", [None, "stranger"])
def test_a_caller_without_one_is_not(secure_port: int, certificates: Path, name: str | None) -> None:
    assert not echo(secure_port, sending_context(files(certificates, name)))
    assert echo(secure_port, sending_context(files(certificates, "peer")))


def test_a_caller_in_clear_is_not(secure_port: int, certificates: Path) -> None:
    assert not echo(secure_port, None)
    assert echo(secure_port, sending_context(files(certificates, "peer")))


def test_a_silent_connection_does_not_keep_others_out(secure_port: int, certificates: Path) -> None:
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", secure_port)):
        assert echo(secure_port, sending_context(files(certificates, "peer")))
    assert time.monotonic() - begun < 15  # half of what a handshake may take


def test_a_sender_does_not_trust_a_stranger(tmp_path: Path, certificates: Path) -> None:
    queue = SeriesQueue(tmp_path / "spool")
    listener = Listener(queue, ListenerConfig(aet="VISCERA", port=0, tls=files(certificates, "stranger", False)))
    destination = Destination(aet="VISCERA", host="127.0.0.1", port=listener.start())
    from .test_worker import result

    path = result(tmp_path / "1.dcm", "1.1")
    with pytest.raises(TransferError, match="calling VISCERA"):
        list(send_objects([path], destination, calling_aet="V", tls=files(certificates, "peer")))
    listener.stop()
    queue.close()


@pytest.mark.parametrize("missing", ["certificate", "key"])
def test_a_listener_needs_certificate_and_key(certificates: Path, missing: str) -> None:
    parts = {"certificate": certificates / "ours.pem", "key": certificates / "ours.key"}
    del parts[missing]
    with pytest.raises(ConfigError, match="--tls-cert and --tls-key"):
        listening_context(TlsFiles(**parts))


def test_files_that_do_not_fit_are_told(certificates: Path, tmp_path: Path) -> None:
    wrong = TlsFiles(certificate=certificates / "ours.pem", key=certificates / "peer.key")
    with pytest.raises(ConfigError, match="setting up TLS"):
        listening_context(wrong)
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="setting up TLS"):
        sending_context(TlsFiles(authorities=tmp_path / "no.pem"))
    with pytest.raises(ConfigError, match="setting up TLS"):
        sending_context(TlsFiles(authorities=tmp_path / "nowhere.pem"))


def test_a_key_with_a_password_is_refused_and_not_asked_for(certificates: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked.key"
    openssl(certificates, "ec", "-in", "ours.key", "-aes256", "-passout", "pass:secret", "-out", str(locked))
    with pytest.raises(ConfigError, match="no password"):
        listening_context(TlsFiles(certificate=certificates / "ours.pem", key=locked))
