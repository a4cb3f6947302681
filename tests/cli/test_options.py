"""Arguments that several verbs share: sizes of memory, and where the cache of compiled networks lies."""

import argparse
from pathlib import Path

import pytest

from viscera.cli.options import add_runtime, cache_folder, memory_size, positive

HOME = {"HOME": "/home/me"}


@pytest.mark.parametrize(
    ("environment", "platform", "folder"),
    [
        (HOME, "linux", "/home/me/.cache/viscera/compiled"),
        (HOME | {"XDG_CACHE_HOME": "/scratch"}, "linux", "/scratch/viscera/compiled"),
        (HOME | {"XDG_CACHE_HOME": "relative"}, "linux", "/home/me/.cache/viscera/compiled"),
        (HOME, "darwin", "/home/me/Library/Caches/viscera/compiled"),
        ({"LOCALAPPDATA": "C:/Users/me/AppData/Local"}, "win32", "C:/Users/me/AppData/Local/viscera/compiled"),
    ],
)
def test_the_cache_lies_where_the_system_keeps_caches(environment: dict[str, str], platform: str, folder: str) -> None:
    assert cache_folder(environment, platform) == Path(folder)


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_without_a_home_there_is_no_cache(platform: str) -> None:
    assert cache_folder({}, platform) is None


def test_a_memory_limit_is_read_into_bytes() -> None:
    parser = argparse.ArgumentParser()
    add_runtime(parser)
    assert parser.parse_args(["--memory-limit", "1.5GB"]).memory_limit == 1_500_000_000
    assert parser.parse_args([]).memory_limit is None


def test_what_is_no_size_is_wrong_usage() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected a size such as 500MB"):
        memory_size("lots")


def test_numbers_of_threads_are_above_zero() -> None:
    assert positive("3") == 3
    for text in ("0", "-1", "two"):
        with pytest.raises(argparse.ArgumentTypeError, match="above 0"):
            positive(text)
