"""A segmenter in a forked process: it works, or it is refused in one line, and never waits for ever."""

import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from viscera.segmenter import Segmenter
from viscera.synthesis.phantom import PhantomConfig, make_phantom

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")

# Of Python that says a process with threads is forked, which is what is tried here.
QUIET = ("-W", "ignore:.*fork:DeprecationWarning")
SECONDS = 120
# What both scripts begin with: a scan, and what the parent's own labels are compared by.
HEAD = """
import multiprocessing, sys, zlib
from viscera.segmenter import Segmenter
from viscera.core.errors import VisceraError
from viscera.synthesis.phantom import PhantomConfig, make_phantom

SCAN = make_phantom(3, config=PhantomConfig(shape_zyx=(40, 60, 72), spacing_zyx_mm=(8.0, 6.0, 6.0))).volume

def labelled(number=0):
    try:
        return zlib.crc32(segmenter.segment_volume(SCAN).label_map.labels)
    except VisceraError as error:
        return f"{type(error).__name__}: {error}"
"""


def printed(script: str, *arguments: str) -> list[str]:
    """The lines a script prints in a process of its own; one that waits for ever ends by `SECONDS`."""
    code = HEAD + textwrap.dedent(script)
    command = [sys.executable, *QUIET, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_workers_forked_while_the_parent_is_still_loading_label_as_the_parent_does() -> None:
    forked, own = printed(
        """
        segmenter = Segmenter.load(threads=1)  # the graphs are still being read in the background
        with multiprocessing.get_context("fork").Pool(2) as pool:
            print(*pool.map_async(labelled, range(2)).get(60))
        print(labelled(), labelled())
        """
    )
    assert forked == own
    assert re.fullmatch(r"\d+ \d+", own)


@pytest.mark.parametrize("again", ["", "segmenter = Segmenter.load(threads=1)"], ids=["the same", "a new one"])
def test_workers_forked_after_the_parent_has_run_are_refused_in_one_line(again: str) -> None:
    own, forked, after = printed(
        f"""
        segmenter = Segmenter.load(threads=1)
        print(labelled())
        def work(number):
            global segmenter
            {again or "pass"}
            return labelled()
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map_async(work, range(1)).get(60)[0])
        print(labelled())
        """
    )
    assert forked.startswith("ConfigError: running the networks in a forked process: expected a fork before its parent")
    assert "method spawn" in forked
    assert after == own  # the parent itself goes on


def test_a_network_announced_in_the_parent_is_enough_to_be_refused(tmp_path: Path) -> None:
    (refused,) = printed(
        """
        segmenter = Segmenter.load(threads=1)
        segmenter.engine.compile_ahead("localise", (1, 1, 64, 64, 64))
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map_async(labelled, range(1)).get(60)[0])
        """
    )
    assert refused.startswith("ConfigError: running the networks in a forked process")


def test_a_segmenter_can_be_sent_to_a_spawned_worker() -> None:
    scan = make_phantom(3, config=PhantomConfig(shape_zyx=(40, 60, 72), spacing_zyx_mm=(8.0, 6.0, 6.0))).volume
    segmenter = Segmenter.load(threads=1)
    labels = segmenter.segment_volume(scan).label_map.labels
    sent = pickle.loads(pickle.dumps(segmenter))
    assert sent.bundle == segmenter.bundle
    assert (sent.segment_volume(scan).label_map.labels == labels).all()


def test_a_worker_that_inherits_a_segmenter_and_never_uses_it_can_end() -> None:
    assert printed(
        """
        import os
        segmenter = Segmenter.load(threads=1)
        print(labelled() > 0, flush=True)
        child = os.fork()
        if child == 0:
            del segmenter
            sys.exit(7)  # as a server's worker does: the interpreter deletes everything
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """
    ) == ["True", "7"]


def test_an_engine_of_torch_is_refused_in_a_fork(tiny_bundle: Path) -> None:
    (refused,) = printed(
        """
        import numpy as np
        from viscera.model.bundle import load_bundle
        from viscera.engines.torch_engine import TorchEngine

        engine = TorchEngine(load_bundle(__import__("pathlib").Path(sys.argv[1])), device="cpu")
        engine.prepare()

        def run(number):
            try:
                engine.run("segment", np.zeros((1, 1, 16, 16, 16), np.float32))
            except VisceraError as error:
                return str(error)

        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map_async(run, range(1)).get(60)[0])
        """,
        str(tiny_bundle),
    )
    assert refused.startswith("running the networks in a forked process: expected a fork before its parent")
