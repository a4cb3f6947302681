"""The verb's frame: wrong usage, missing packages, addresses beyond this machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from viscera.cli.main import main

LISTEN = ["pacs", "listen", "--aet", "VISCERA", "--port", "0", "--forward", "A@127.0.0.1:104"]
SEGMENT = ["pacs", "segment", "--dicomweb", "http://127.0.0.1:1/dicom-web", "--study", "1.2"]


@pytest.mark.parametrize(
    "argv",
    [
        ["pacs"],
        ["pacs", "fetch"],
        ["pacs", "segment", "--study", "1.2"],
        [*SEGMENT, "--series", "1.3", "--all-series"],
        [*SEGMENT, "-f", "png"],
        [*SEGMENT, "--password", "secret"],
        [*SEGMENT, "--max-gib", "0"],
        ["pacs", "listen", "--aet", "VISCERA", "--port", "104"],
        ["pacs", "listen", "--aet", "VISCERA", "--port", "65536", "--forward", "A@b:1"],
        [*LISTEN, "--quiet-seconds", "-1"],
        [*LISTEN, "--quiet-seconds", "nan"],
        [*LISTEN, "--max-series", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    assert "usage: viscera" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--bind", "0.0.0.0"], "--allow-aet"),
        (["--bind", "::"], "--allow-aet"),
        (["--bind", "192.0.2.1", "--allow-aet", "CT1"], "listening at 192.0.2.1"),
        (["--aet", "A NAME THAT IS TOO LONG"], "application entity title"),
        (["--allow-aet", ""], "application entity title"),
        (["--forward", "nowhere"], "reading a destination"),
        (["--tls-cert", "cert.pem"], "--tls-cert and --tls-key"),
        (["--tls-ca", "ca.pem"], "--tls-cert and --tls-key"),
        (["--tls-cert", "no.pem", "--tls-key", "no.key"], "setting up TLS"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_cannot_work_are_told(
    more: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pynetdicom")
    pytest.importorskip("highdicom")
    assert main([*LISTEN, "--spool", str(tmp_path / "spool"), *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_a_spool_that_cannot_be_made_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pynetdicom")
    pytest.importorskip("highdicom")
    (tmp_path / "file").write_text("x")
    assert main([*LISTEN, "--spool", str(tmp_path / "file")]) == 1
    assert "recording in the queue" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "package"), [(LISTEN, "pynetdicom"), (SEGMENT, "requests")])
def test_a_missing_package_is_told(argv: list[str], package: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from viscera.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, *argv]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'viscera[pacs]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("argv", [["pacs", "-q", *SEGMENT[1:]], [*SEGMENT, "-q"]])
def test_quiet_may_stand_before_or_after_the_action(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("requests")
    pytest.importorskip("highdicom")
    assert main(argv) == 1
    assert capsys.readouterr().err.count("\n") == 1
