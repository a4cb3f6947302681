"""The verbs of the command line, one module each: `HELP`, `EXAMPLE`, `add_arguments(parser)` and `run(args) -> int`.

A module here imports what is heavy inside `run`, so that `viscera --help` answers at once.
"""
