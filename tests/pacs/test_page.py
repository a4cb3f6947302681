"""docs/how-to/orthanc.md, followed to the letter: its own shell commands, in a home folder of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import DICOMWEB_PLUGIN, ORTHANC

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "how-to" / "orthanc.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
INSTALL, *STEPS = BLOCKS
PORTS = (18042, 14242, 11112)


def taken(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def test_the_packages_it_installs_are_those_the_checks_install() -> None:
    """The first block, the one that is not run below: nothing but Debian's packages, a virtual environment and pip."""
    lines = INSTALL.splitlines()
    assert len(lines) == 4
    assert lines[0] == "sudo apt-get update"
    packages = lines[1].removeprefix("sudo apt-get install -y --no-install-recommends ").split()
    assert lines[2:] == [
        "python3 -m venv ~/viscera-trial/env",
        "~/viscera-trial/env/bin/pip install '.[pacs]'",
    ]
    checks = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    # Python and its environments come with the machine that runs the checks.
    installed = re.search(r"packages=\((.*)\)", checks)
    assert installed is not None
    assert set(packages) - {"python3-venv"} <= set(installed.group(1).split())


def test_its_steps_end_with_a_segmentation_in_orthanc(tmp_path: Path) -> None:
    for module in ("pynetdicom", "requests", "highdicom", "contourpy"):
        pytest.importorskip(module)
    if ORTHANC != "/usr/sbin/Orthanc" or not DICOMWEB_PLUGIN.is_file() or shutil.which("curl") is None:
        pytest.skip("Debian's packages orthanc, orthanc-dicomweb and curl are not installed")
    if busy := [port for port in PORTS if taken(port)]:
        pytest.skip(f"the page's ports {busy} are in use")
    # The installation is the one that runs this test.
    programs = tmp_path / "viscera-trial" / "env" / "bin"
    programs.mkdir(parents=True)
    (programs / "viscera").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m viscera "$@"\n')
    (programs / "viscera").chmod(0o755)

    script = "\n".join(STEPS)
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        told, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, told
    assert re.search(r'"Modality" : "SEG"', told), told
    assert re.search(r'"Modality" : "RTSTRUCT"', told), told
    assert told.count('"Modality" : "SEG"') == 1
    assert "stored dicom-seg" in told
    assert not [port for port in PORTS if taken(port)], "its last step stops everything"
