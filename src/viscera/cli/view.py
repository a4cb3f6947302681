"""`viscera view`: a CT and its organs in the browser."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

from viscera.cli.console import Console
from viscera.cli.view_inputs import add_reading, read_inputs
from viscera.core.interrupts import Terminated, clean_end

HELP = "look at a CT and its organs in the browser"
DESCRIPTION = """\
Opens a page on this machine in the browser: three planes of the CT with the organs in colour, the organs in 3D, and
their volumes. Only this machine can reach it, and only at the address printed. Ctrl-C ends it."""
EXAMPLE = "viscera view ct.nii.gz organs.nii.gz"

# NiiVue turns CT and labels into textures of 4 bytes a voxel each, and passes over all voxels to change a window: more
# would fit neither a small graphics card nor the patience of a user without one.
MOST_VOXELS = 40_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the subcommand's arguments to `parser`."""
    parser.add_argument("ct", metavar="CT", type=Path, help="one CT, as for `viscera segment`")
    parser.add_argument("labels", metavar="LABELS", nargs="?", type=Path, help="its label map (NIfTI, NRRD, MetaImage)")
    add_reading(parser)
    parser.add_argument("--port", metavar="N", type=_port, default=0, help="port of 127.0.0.1 (default: any free one)")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve the page until Ctrl-C and return the exit code."""
    from viscera.viewer.display_images import fitted
    from viscera.viewer.served_page import served_items
    from viscera.viewer.server import ViewerServer

    inputs = read_inputs(args)
    shown = fitted(inputs.volume, inputs.label_map, MOST_VOXELS)
    notes = inputs.notes
    if shown.coarsened:
        notes = (*notes, "The pictures are coarser than the scan, which is too large for a browser; the table is not.")
    for note in notes:
        console.note(note)
    with clean_end(), ViewerServer(served_items(shown, inputs.rows, notes), args.port) as server:
        console.say(f"{server.url}\nCtrl-C ends it")
        if not args.no_browser:
            # A browser in a terminal would keep the server from answering it.
            threading.Thread(target=_open, args=(server.url, console), daemon=True).start()
        try:
            server.serve_forever()
        except Terminated:
            raise
        except KeyboardInterrupt:
            console.say("")
    return 0


def _open(url: str, console: Console) -> None:
    import webbrowser

    if not webbrowser.open(url):
        console.note("no browser was found; open the address yourself")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 16:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)
