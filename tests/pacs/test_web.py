"""The DICOMweb client: real responses of Orthanc, and bad ones of a small server; secrets stay where they belong."""

import base64
import contextlib
import gzip
import http.server
import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("requests")

from viscera.cli.main import main
from viscera.core.errors import ConfigError, TransferError
from viscera.formats.dicom.series_ranking import SeriesTraits, image_kind
from viscera.pacs.access import Access
from viscera.pacs.dicomweb import DicomWeb, RemoteImage, RemoteSeries
from viscera.pacs.multipart import boundary_of, save_parts
from viscera.pacs.tls import TlsFiles

from .conftest import Orthanc, free_port

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


class Site:
    """A web server that responds to every request in one way and records the requests."""

    def __init__(self) -> None:
        self.reply: Reply = lambda request: reply(request, b"[]")
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.headers.append(dict(self.headers))
                site.reply(self)

            def do_POST(self) -> None:
                site.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/dicom-web"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def reply(request: http.server.BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    request.send_response(status)
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    usual = {"Content-Type": "application/dicom+json", "Content-Length": str(len(body))}
    for name, value in {**usual, **given}.items():
        request.send_header(name, value)
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def site() -> Iterator[Site]:
    running = Site()
    yield running
    running.stop()


def secret(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


# What goes wrong.


def test_no_such_study(orthanc: Orthanc) -> None:
    with pytest.raises(TransferError, match="no such study"):
        DicomWeb(Access(url=orthanc.dicomweb)).ct_series("1.2.3.404")


def test_nobody_there() -> None:
    with pytest.raises(TransferError, match="no connection"):
        DicomWeb(Access(url=f"http://127.0.0.1:{free_port()}/dicom-web")).ct_series("1.2")


def test_plain_http_where_tls_is_expected(orthanc: Orthanc) -> None:
    with pytest.raises(TransferError, match="certificate or a TLS version"):
        DicomWeb(Access(url=orthanc.dicomweb.replace("http:", "https:"))).ct_series("1.2")


@pytest.mark.parametrize(
    ("status", "remedy"), [(401, "--token-file"), (403, "right"), (404, "--dicomweb"), (500, "log")]
)
def test_http_errors(site: Site, status: int, remedy: str) -> None:
    site.reply = lambda request: reply(request, b"", status)
    with pytest.raises(TransferError, match=rf"HTTP status {status}.*{remedy}"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")
    assert len(site.headers) == 1


STRANGE = [b"<html>Welcome</html>", b'{"a": 1}', b"[1, 2]", b'"text"', b'[{"00080060": 7}]', b"", b"[" * 1_000_000]


@pytest.mark.parametrize("body", STRANGE, ids=lambda body: body[:20].decode())
def test_a_response_that_is_not_dicomweb(site: Site, body: bytes) -> None:
    site.reply = lambda request: reply(request, body)
    with pytest.raises(TransferError, match=r"something else|no such study|only no modality"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")


def test_a_listing_without_end_is_not_read_to_the_end(site: Site) -> None:
    """Of a body that unfolds to 300 MB no more than the limit is unfolded."""
    packed = gzip.compress(b"[" + b" " * 300 * 2**20, compresslevel=1)

    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(ConnectionError):
            reply(request, packed, **{"Content-Encoding": "gzip"})

    site.reply = endless
    tracemalloc.start()
    with pytest.raises(TransferError, match="expected at most 33554432 bytes, got more"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * 2**20


def test_a_study_without_ct(site: Site) -> None:
    site.reply = lambda request: reply(request, b'[{"00080060": {"vr": "CS", "Value": ["MR"]}}]')
    with pytest.raises(TransferError, match="got only MR"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")


def test_no_redirect_is_followed(site: Site) -> None:
    other = Site()
    site.reply = lambda request: reply(request, b"", 302, Location=other.url)
    with pytest.raises(TransferError, match="redirect"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")
    other.stop()
    assert other.headers == []


def test_no_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(TransferError, match="no such study"):
        DicomWeb(Access(url=site.url)).ct_series("1.2")


def test_images_that_break_off(site: Site, tmp_path: Path) -> None:
    kind = 'multipart/related; type="application/dicom"; boundary=b'
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\nhalf an ima"
    site.reply = lambda request: reply(request, body, Content_Type=kind)
    with pytest.raises(TransferError, match="ends in the middle"):
        DicomWeb(Access(url=site.url)).fetch("1.2", "1.3", tmp_path)


def test_a_connection_that_breaks_off(site: Site, tmp_path: Path) -> None:
    kind = "multipart/related; boundary=b"
    site.reply = lambda request: reply(request, b"--b\r\n\r\nhalf", Content_Type=kind, Content_Length="1000")
    with pytest.raises(TransferError, match="breaks off"):
        DicomWeb(Access(url=site.url)).fetch("1.2", "1.3", tmp_path)


def test_images_of_another_kind(site: Site, tmp_path: Path) -> None:
    site.reply = lambda request: reply(request, b"<html>", Content_Type="text/html")
    with pytest.raises(TransferError, match="no DICOM"):
        DicomWeb(Access(url=site.url)).fetch("1.2", "1.3", tmp_path)


def test_more_bytes_than_allowed(site: Site, tmp_path: Path) -> None:
    body = b"--b\r\n\r\n" + b"x" * 5000 + b"\r\n--b--"
    site.reply = lambda request: reply(request, body, Content_Type="multipart/related; boundary=b")
    with pytest.raises(TransferError, match="at most 4000 bytes"):
        DicomWeb(Access(url=site.url, most_bytes=4000)).fetch("1.2", "1.3", tmp_path)


# Storing.

STORED = {"00081199": {"vr": "SQ", "Value": [{}, {}]}}


def results(folder: Path) -> list[Path]:
    paths = [folder / "seg.dcm", folder / "rtstruct.dcm"]
    for path in paths:
        path.write_bytes(path.name.encode() * 1000)
    return paths


def test_files_are_stored_as_they_are(site: Site, tmp_path: Path) -> None:
    site.reply = lambda request: reply(request, json.dumps(STORED).encode())
    paths = results(tmp_path)
    DicomWeb(Access(url=site.url)).store(paths, "1.2")
    boundary = boundary_of(site.headers[0]["Content-Type"])
    assert boundary is not None
    assert 'type="application/dicom"' in site.headers[0]["Content-Type"]
    assert save_parts(site.bodies, boundary, (tmp_path / f"{number}" for number in range(9))) == 2
    assert [(tmp_path / f"{number}").read_bytes() for number in range(2)] == [path.read_bytes() for path in paths]


@pytest.mark.parametrize(
    ("result", "got"),
    [
        ({"00081199": {"Value": [{}]}}, r"1 not stored \(no reason given\)"),
        ({}, r"2 not stored \(no reason given\)"),
        (
            {"00081198": {"Value": [{"00081197": {"vr": "US", "Value": [0xA700]}}]}, **STORED},
            r"1 not stored \(0xA700\)",
        ),
        ([], r"2 not stored \(no reason given\)"),
        ([1], r"something else"),
    ],
)
def test_results_that_are_not_stored(site: Site, tmp_path: Path, result: Any, got: str) -> None:
    site.reply = lambda request: reply(request, json.dumps(result).encode(), 202)
    with pytest.raises(TransferError, match=rf"storing 2 results at .*{got}"):
        DicomWeb(Access(url=site.url)).store(results(tmp_path), "1.2")


# Secrets.


def test_a_token_comes_from_its_file(site: Site, tmp_path: Path) -> None:
    web = DicomWeb(Access(url=site.url, token_file=secret(tmp_path / "token", "abc.def\n")))
    with pytest.raises(TransferError):
        web.ct_series("1.2")
    assert site.headers[0]["Authorization"] == "Bearer abc.def"


def test_user_and_password_come_from_a_netrc_file(site: Site, tmp_path: Path) -> None:
    lines = "machine elsewhere login a password b\nmachine 127.0.0.1 login ann password s3cret\n"
    web = DicomWeb(Access(url=site.url, netrc_file=secret(tmp_path / "netrc", lines)))
    with pytest.raises(TransferError):
        web.ct_series("1.2")
    assert base64.b64decode(site.headers[0]["Authorization"].removeprefix("Basic ")) == b"ann:s3cret"


def test_without_a_file_nothing_is_sent(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret(tmp_path / ".netrc", "machine 127.0.0.1 login ann password s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(TransferError):
        DicomWeb(Access(url=site.url)).ct_series("1.2")
    assert "Authorization" not in site.headers[0]


def test_a_secret_that_others_can_read_is_refused(site: Site, tmp_path: Path) -> None:
    path = secret(tmp_path / "token", "abc")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        DicomWeb(Access(url=site.url, token_file=path))


@pytest.mark.parametrize("text", ["", "  \n", "two words", "two\nlines"])
def test_what_is_no_token(site: Site, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        DicomWeb(Access(url=site.url, token_file=secret(tmp_path / "token", text)))


@pytest.mark.parametrize("text", ["nonsense", "machine other login a password b"])
def test_what_is_no_netrc_file_for_this_host(site: Site, tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        DicomWeb(Access(url=site.url, netrc_file=secret(tmp_path / "netrc", text)))


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1", "ftp://host/x", "http://", "http://user:secret@host/x", "http://h/x?y=1", "file:///etc/passwd"],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Access(url=url)
    assert "user:secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "in_clear"), [("http://pacs/x", True), ("https://pacs/x", False), ("http://127.0.0.1/x", False)]
)
def test_a_secret_in_clear_is_noticed(tmp_path: Path, url: str, in_clear: bool) -> None:
    assert Access(url=url, token_file=tmp_path / "token").in_clear is in_clear
    assert not Access(url=url).in_clear


def test_certificate_files_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        DicomWeb(Access(url="https://pacs/x", tls=TlsFiles(authorities=tmp_path / "nowhere.pem")))


# Which series.


SLICES = image_kind(("ORIGINAL", "PRIMARY", "AXIAL"))
THROUGH = (0.0, 0.0, 1.0)


def remote(number: str, images: int, *, axial: bool | None = True, description: str = "", **seen: Any) -> RemoteSeries:
    """A series of which one image was read, and no positions are known."""
    names = {"uid": f"1.{number}", "number": number, "description": description, "body_part": ""}
    traits = SeriesTraits(
        **{"kind": SLICES, "axial": axial, "places": None, "gap_mm": None, "even": None, **names, **seen}
    )
    return RemoteSeries(**names, images=images, traits=traits).examined(traits, THROUGH, [])


def rank(series: RemoteSeries) -> tuple[Any, ...]:
    return series.traits.rank()


def test_the_best_series_comes_first() -> None:
    best_first = [
        remote("4", 200),
        remote("2", 100, description="Abdomen 5 mm"),
        remote("1", 100),
        remote("10", 100),
        remote("7", 400, kind=image_kind(("DERIVED", "SECONDARY", "AXIAL"))),
        remote("3", 300, axial=False),
        remote("5", 5),
        remote("6", 500, kind=image_kind(("DERIVED", "PRIMARY", "AXIAL", "CT_SOM5 MIP"))),
        remote("8", 500, kind=image_kind(("ORIGINAL", "PRIMARY", "AXIAL"), rescale_type="Z_EFF")),
    ]
    assert sorted((best_first[place] for place in (7, 3, 0, 5, 8, 2, 6, 4, 1)), key=rank) == best_first


def test_one_multi_frame_object_is_not_a_short_series() -> None:
    assert remote("1", 1, places=200, gap_mm=1.0, even=True).traits.places == 200
    assert sorted([remote("2", 9), remote("1", 1)], key=rank)[0].number == "1"


def test_positions_that_the_pacs_lists_give_slice_positions_gap_and_evenness() -> None:
    series = remote("1", 3)
    images = [RemoteImage(uid=f"1.{k}", position_xyz_mm=(0.0, 0.0, 5.0 * k)) for k in (2, 0, 1)]
    traits = series.examined(series.traits, THROUGH, images).traits
    assert (traits.places, traits.gap_mm, traits.even) == (3, 5.0, True)
    for fewer in (images[:2], [*images[:2], RemoteImage(uid="1.9", position_xyz_mm=None)]):
        traits = series.examined(series.traits, THROUGH, fewer).traits
        assert (traits.places, traits.gap_mm, traits.even) == (3, None, None)


def test_images_without_an_identifier_or_position(site: Site) -> None:
    listed = [{"00080018": {"vr": "UI", "Value": ["1.2"]}, "00200032": {"vr": "DS", "Value": ["1", 2, 3.5]}}]
    site.reply = lambda request: reply(request, json.dumps([*listed, {"00080018": {"Value": ["1.3"]}}]).encode())
    found = DicomWeb(Access(url=site.url)).images("1.2", "1.3")
    assert [(one.uid, one.position_xyz_mm) for one in found] == [("1.2", (1.0, 2.0, 3.5)), ("1.3", None)]
    site.reply = lambda request: reply(request, b"[{}]")
    with pytest.raises(TransferError, match="expected objects, got none"):
        DicomWeb(Access(url=site.url)).images("1.2", "1.3")


@pytest.mark.parametrize("uid", ["../../x", "1.2/series", "", "1" * 65, "abc"])
def test_identifiers_on_the_command_line_are_checked(uid: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://127.0.0.1:{free_port()}/dicom-web"
    assert main(["pacs", "segment", "--dicomweb", url, "--study", uid]) == 2
    assert "reading a UID" in capsys.readouterr().err
