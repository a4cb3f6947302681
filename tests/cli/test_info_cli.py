"""`viscera info`: plain lines, and the check of the installation with each part broken once."""

import builtins
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from viscera.cli import installation
from viscera.cli.info import _plain_lines
from viscera.cli.main import main
from viscera.core.errors import MissingExtraError
from viscera.engines import choice
from viscera.model.bundle import load_bundle

Said = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def check(tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Said:
    """The exit code and the lines of `viscera info --check` with a tiny bundle."""
    monkeypatch.setattr(choice, "driver_is_loaded", lambda: False)

    def run(bundle: object = tiny_bundle) -> tuple[int, list[str]]:
        code = main(["info", "--check", "--device", "cpu", str(bundle)])
        return code, capsys.readouterr().out.splitlines()

    return run


def failed(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("failed ")]


def test_a_sound_installation_passes_in_plain_lines(check: Said) -> None:
    code, lines = check()
    assert (code, failed(lines), lines[-1]) == (0, [], "all ok")
    names = [line.split(":")[0].removeprefix("ok").strip() for line in lines if line.startswith("ok ")]
    codecs = [f"DICOM {name}" for name in ("JPEG lossless", "JPEG-LS", "JPEG 2000", "RLE")]
    assert names == ["networks", *codecs, "GPU", "cache", "this folder", "temporary folder", "free memory"]
    assert not [line for line in lines if re.search(r"[{}\[\]]", line)]


def test_an_altered_bundle_fails(check: Said, tiny_bundle: Path, tmp_path: Path) -> None:
    import shutil

    broken = Path(shutil.copytree(tiny_bundle, tmp_path / "broken"))
    (broken / "localise.onnx").write_bytes(b"x")
    code, lines = check(broken)
    assert (code, lines[-1]) == (1, "1 failed")
    assert "networks:" in failed(lines)[0]
    assert "Get the bundle again" in failed(lines)[0]


def test_a_codec_that_decodes_to_other_values_fails(check: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_IMAGE", np.zeros((16, 16), np.uint16))
    code, lines = check()
    assert code == 1
    assert len(failed(lines)) == 4
    assert "Install python-gdcm and pydicom again" in failed(lines)[0]


def test_a_codec_whose_library_is_missing_fails(check: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name.startswith("viscera.formats.dicom.pixels"):
            raise ImportError("No module named 'pydicom'")
        return original(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    code, lines = check()
    assert (code, len(failed(lines))) == (1, 4)
    assert "Install viscera again" in failed(lines)[0]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="a folder that its owner cannot write")
def test_a_folder_that_cannot_be_written_fails(check: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.chdir(closed)
    code, lines = check()
    assert (code, len(failed(lines))) == (1, 1)
    assert "this folder:" in failed(lines)[0]


def test_a_cache_folder_that_is_a_file_fails(check: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, lines = check()
    assert code == 1
    assert "cache:" in failed(lines)[0]


def test_little_memory_fails_with_a_way_out(check: Said, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 900000 kB\nMemAvailable: 600000 kB\n")
    monkeypatch.setattr(installation, "_MEMORY", tmp_path / "meminfo")
    code, lines = check()
    assert code == 1
    assert "--memory-limit 800MB" in failed(lines)[0]


def test_a_driver_without_torch_is_ok_and_says_how(check: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "driver_is_loaded", lambda: True)
    monkeypatch.setattr(choice, "torch_is_installed", lambda: False)
    code, lines = check()
    assert code == 0
    assert [line for line in lines if "pip install 'viscera[gpu]'" in line]


def test_an_engine_that_cannot_be_made_fails(check: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingExtraError("loading", expected="a package", got="none", remedy="Run: pip install it")

    monkeypatch.setattr(installation, "_loaded_segmenter", missing)
    code, lines = check()
    assert code == 1
    assert failed(lines) == ["failed  networks: none, not a package. Run: pip install it."]


def test_a_card_is_shown_without_brackets(capsys: pytest.CaptureFixture[str], tiny_bundle: Path) -> None:
    assert main(["info"]) == 0
    card = capsys.readouterr().out
    assert "{" not in card
    assert "[" not in card
    scores = load_bundle().card.metrics["real CTs, mean DSC"]
    shown = "; ".join(f"{organ}: {score}" for organ, score in scores.items())
    assert f"  metrics, real CTs, mean DSC: {shown}" in card


def test_nested_values_worked_out_by_hand() -> None:
    values = {"a": 1, "b": {"c": [1, 2], "d": None}, "e": [{"f": True}, {"f": False}], "g": {"h": {"i": "j"}}, "k": []}
    assert list(_plain_lines(values)) == [
        "a: 1",
        "b: c: 1, 2; d: none",
        "e 1: f: yes",
        "e 2: f: no",
        "g, h: i: j",
        "k: none",
    ]
