"""The command line: each command reads its flags, calls one function and prints.

A module for each group of `--help`, which lists them in the order of their import. Nothing heavy is imported before a
command runs: torch, Optuna and pandas take seconds, `--help` must not.
"""

# isort: off
from hpsearch.cli import start, run, look, use, manage
from hpsearch.cli.options import app

# isort: on

__all__ = ["app", "look", "manage", "run", "start", "use"]
