"""The viewer's server: what it hands out, to whom, and what it refuses, asked over plain sockets as an attacker may."""

import http.client
import io
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator

import nibabel as nib
import numpy as np
import pytest

from viscera.core.errors import ConfigError
from viscera.core.geometry import Grid
from viscera.viewer.nifti_image import NiftiImage
from viscera.viewer.server import Item, ViewerServer

GRID = Grid(shape_zyx=(10, 11, 12), affine=np.array([[0, 0.1, -1, 7], [0, 2, 0.2, -8], [3, 0, 0, 9], [0, 0, 0, 1.0]]))
HU = np.random.default_rng(5).integers(-1024, 3000, (10, 11, 12), dtype=np.int16)
ITEMS = {
    "": Item(media_type="text/html; charset=utf-8", body=b"<p>the page</p>"),
    "ct.nii": Item(media_type="application/octet-stream", body=NiftiImage(array=HU[::-1], grid=GRID)),
}


@pytest.fixture(scope="module")
def server() -> Iterator[ViewerServer]:
    with ViewerServer(ITEMS) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield serving
        serving.shutdown()
        thread.join()


def path_of(server: ViewerServer, name: str = "") -> str:
    return server.url.partition(f":{server.port}")[2] + name


def asked(server: ViewerServer, path: str, *, method: str = "GET", host: str | None = None) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.body = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


def test_the_page_is_there_with_the_token(server: ViewerServer) -> None:
    answer = asked(server, path_of(server))
    assert (answer.status, answer.body) == (200, b"<p>the page</p>")  # type: ignore[attr-defined]
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"


def test_a_streamed_image_is_the_nifti_file_of_its_voxels(server: ViewerServer) -> None:
    answer = asked(server, path_of(server, "ct.nii"))
    body: bytes = answer.body  # type: ignore[attr-defined]
    assert answer.headers["Content-Length"] == str(len(body))
    image = nib.Nifti1Image.from_stream(io.BytesIO(body))
    np.testing.assert_array_equal(np.asarray(image.dataobj).T, HU[::-1])
    np.testing.assert_allclose(image.affine, GRID.nifti_affine(), atol=1e-5)


def test_head_tells_the_size_alone(server: ViewerServer) -> None:
    answer = asked(server, path_of(server, "ct.nii"), method="HEAD")
    assert int(answer.headers["Content-Length"]) > HU.nbytes
    assert answer.body == b""  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/ct.nii",
        "/favicon.ico",
        "/{token}",
        "/{token}/..",
        "/{token}/../ct.nii",
        "/{token}/%2e%2e/%2e%2e/etc/passwd",
        "/{token}/../../../../../../etc/passwd",
        "/{token}//etc/passwd",
        "/{token}/ct.nii/",
        "/{token}/ct.nii%00",
        "/{token}/server.py",
        "/{token}x/",
        "/" + "A" * 32 + "/",
        "/?/{token}/",
        "/" + "a/" * 20000,
    ],
    ids=lambda path: path[:40],
)
def test_there_is_nothing_else(path: str, server: ViewerServer) -> None:
    token = path_of(server).strip("/")
    answer = asked(server, path.replace("{token}", token))
    assert answer.status == 404
    body: bytes = answer.body  # type: ignore[attr-defined]
    assert body.startswith(b"404 Not Found\n")
    assert b"the address it printed last" in body
    assert token.encode() not in body


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.1.evil.example:{port}",
        "localhost.evil.example:{port}",
        "evil-localhost:{port}",
        "user@localhost:{port}",
        "evil.example@127.0.0.1:{port}",
        "localhost:{port}@evil.example",
        "localhost:{port},evil.example",
        "localhost evil.example",
        "localhost:",
        "localhost:port",
        "128.0.0.1:{port}",
        "0.0.0.0:{port}",
        "192.168.1.20:{port}",
        "2130706433:{port}",
        "127.1:{port}",
        "[::]:{port}",
        "[fe80::1]:{port}",
        "[::1:{port}",
        "::1",
        "[127.0.0.1:{port}",
    ],
)
def test_another_host_name_is_refused_even_with_the_token_and_told_why(host: str, server: ViewerServer) -> None:
    answer = asked(server, path_of(server), host=host.replace("{port}", str(server.port)))
    body: bytes = answer.body  # type: ignore[attr-defined]
    assert answer.status == 403
    assert body.startswith(b"403 Forbidden\n")
    assert b"ssh -L 8642:127.0.0.1:PORT" in body
    assert not any(part in body for part in (b"evil", str(server.port).encode(), path_of(server).encode()))
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    "host",
    [
        "LocalHost:{port}",
        "localhost",
        "localhost:9000",
        "127.0.0.1",
        "127.0.0.1:9000",
        "127.0.0.2:9000",
        "[::1]:9000",
        "[::1]",
    ],
)
def test_this_machine_is_reached_under_each_of_its_names_through_a_tunnel_of_any_port(
    host: str, server: ViewerServer
) -> None:
    assert asked(server, path_of(server), host=host.replace("{port}", str(server.port))).status == 200
    assert asked(server, "/", host=host.replace("{port}", str(server.port))).status == 404  # the token is needed


def test_a_tunnel_to_another_port_shows_page_and_scan(server: ViewerServer) -> None:
    """As `ssh -L` does: whatever arrives at one port is passed on to the other, unchanged."""

    class Tunnel(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as there:
                there.sendall(self.request.recv(65536))
                while part := there.recv(65536):
                    self.request.sendall(part)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Tunnel) as tunnel:
        threading.Thread(target=tunnel.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name in ("127.0.0.1", "localhost"):
            address = f"http://{name}:{tunnel.server_address[1]}{path_of(server)}"
            assert urllib.request.urlopen(address, timeout=10).read() == b"<p>the page</p>"
            assert len(urllib.request.urlopen(address + "ct.nii", timeout=10).read()) > HU.nbytes
        tunnel.shutdown()


def raw(server: ViewerServer, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST {path} HTTP/1.1", b" 501 "),
        (b"DELETE {path} HTTP/1.1", b" 501 "),
        (b"GET {path} HTTP/9.9", b"505 HTTP Version"),
        (b"nonsense", b"400 Bad Request"),
        (b"GET /" + b"a" * 70000 + b" HTTP/1.1", b" 414 "),
        (b"GET {path} HTTP/1.1\r\nHost: evil.example", b" 403 "),  # a second one
    ],
    ids=["post", "delete", "version", "nonsense", "long", "two hosts"],
)
def test_odd_requests_get_their_status_and_no_echo(request_line: bytes, status: bytes, server: ViewerServer) -> None:
    line = request_line.replace(b"{path}", path_of(server).encode())
    answer = raw(server, line + f"\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode())
    assert status in answer.partition(b"\n")[0]
    assert b"aaaa" not in answer
    assert b"nonsense" not in answer


def test_a_connection_that_breaks_leaves_no_trace(server: ViewerServer, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET ")
    assert asked(server, path_of(server)).status == 200
    out, err = capsys.readouterr()
    assert out + err == ""


@pytest.mark.parametrize("name", ["", "ct.nii", "none"])
def test_every_answer_has_the_security_headers(name: str, server: ViewerServer) -> None:
    headers = asked(server, path_of(server, name)).headers
    policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "Python" not in headers["Server"]


def test_it_listens_on_this_machine_only_and_under_a_new_token_each_time(server: ViewerServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    with ViewerServer(ITEMS) as other:
        tokens = {path_of(one).strip("/") for one in (server, other)}
    assert len(tokens) == 2
    assert all(len(token) == 32 for token in tokens)


def test_a_port_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"a free port of 127.0.0.1, got {port}"):
            ViewerServer(ITEMS, port)
