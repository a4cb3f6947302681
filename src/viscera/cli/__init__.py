"""The command line, one module for each subcommand: `HELP`, `EXAMPLE`, `add_arguments(parser)`, `run(args) -> int`.

A module here imports what is heavy inside `run`, so that `viscera --help` answers at once.
"""
