"""The folder of compiled networks: private, small, and never a reason to fail."""

import os
import stat
from pathlib import Path

from viscera.engines.openvino_cache import prepare_folder


def test_the_folder_is_made_for_its_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert prepare_folder(folder) == folder
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_oldest_files_go_when_there_are_too_many(tmp_path: Path) -> None:
    for age, name in enumerate(["newest", "middle", "oldest"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    prepare_folder(tmp_path, largest_bytes=200)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "newest"]


def test_nothing_goes_while_there_is_room(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(bytes(100))
    prepare_folder(tmp_path, largest_bytes=100)
    assert (tmp_path / "one").exists()


def test_a_place_that_is_no_folder_gives_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert prepare_folder(tmp_path / "file" / "cache") is None
