"""`python -m viscera`: the command line."""

# pathlib, which is written in Python, is imported only after the path is clean.
# ruff: noqa: PTH100, PTH109, PTH120

import os
import sys


def forget_working_directory() -> None:
    """Take the working directory, which `python -m` puts first, off the path, so that no file there is a module.

    It stays if the package itself lies there, as in its source tree.
    """
    here = os.getcwd()
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if not sys.flags.safe_path and sys.path[:1] == [here] and own != here:
        del sys.path[0]


if __name__ == "__main__":
    forget_working_directory()
    from viscera.cli.main import main

    sys.exit(main())
