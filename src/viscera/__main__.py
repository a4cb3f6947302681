"""`python -m viscera`: the command line."""

import sys

from viscera.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
