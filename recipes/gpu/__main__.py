"""The parts of `recipes/gpu.sh`; see docs/how-to/gpu-training.md."""

from __future__ import annotations

import argparse
import importlib
import sys

from viscera.core.errors import VisceraError

PARTS = {
    "pack": "put all that a training needs into one small folder",
    "run": "check the device, train for some time, write what is to come back",
    "unpack": "lay out what came back as runs of a training",
    "check": "compare a device with the CPU",
    "train": "train one network",
}


def main(argv: list[str]) -> int:
    """Run one part and return the exit code."""
    parser = argparse.ArgumentParser(prog="recipes/gpu.sh", description=__doc__)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    for name, summary in PARTS.items():
        part = parts.add_parser(name, help=summary, description=summary)
        if len(argv) and argv[0] == name:  # the others need not be imported
            module = importlib.import_module(f"gpu.{'state' if name == 'unpack' else name}")
            module.add_arguments(part)
            part.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return int(args.run(args))
    except VisceraError as error:
        print(f"gpu.sh {args.part}: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
