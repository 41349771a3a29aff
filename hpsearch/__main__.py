"""The console entry point: runs a command, and says every foreseen error in a sentence."""

import logging
import os
import signal
import sys
from collections.abc import Sequence

import typer

from hpsearch.cli import app
from hpsearch.errors import HpsearchError
from hpsearch.text import LineFormatter, in_lines

# typer has brought its own copy of click for some time now; this is the root of its errors in either case.
_COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Runs the command line and exits with its status."""
    # SIGTERM unwinds as Ctrl-C does, so that what was started so far is ended.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit status.

    0 for success, 1 for a failure, 2 for what the user can mend (arguments, study, data, storage ...), 130
    after Ctrl-C. A traceback means a bug in hpsearch.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        status = app(arguments, prog_name="hpsearch", standalone_mode=False)
    except HpsearchError as error:
        return _complain(str(error), error.exit_status)
    except _COMMAND_LINE_ERROR as error:
        if not arguments:  # the error is the help then
            print(error)
            return 0
        return _complain(usage_sentence(error, arguments), 2)
    except typer.Abort as error:
        return 130 if isinstance(error.__cause__, KeyboardInterrupt) else 1
    except BrokenPipeError:  # the reader has gone, as in `hpsearch list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def _complain(sentence: str, status: int) -> int:
    print(in_lines(f"error: {sentence}"), file=sys.stderr)
    return status


def usage_sentence(error: Exception, arguments: Sequence[str]) -> str:
    """Returns what is wrong with a command line in one sentence, with the value that was given."""
    message = error.format_message().rstrip(".?")  # type: ignore[attr-defined]
    context, param = getattr(error, "ctx", None), getattr(error, "param", None)
    given = _value_of(getattr(param, "opts", []), arguments)
    value = f", got {given!r}" if given is not None else ""
    command = context.command_path if context is not None else "hpsearch"
    return f"{command}: {message}{value}; see {command} --help"


def _value_of(options: Sequence[str], arguments: Sequence[str]) -> str | None:
    """Returns what an option was given, from `--option value` or `--option=value`."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=True):
        option, equals, value = argument.partition("=")
        if option in options:
            return value if equals else following
    return None


if __name__ == "__main__":
    main()
