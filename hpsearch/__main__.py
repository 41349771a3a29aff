"""The console entry point: runs a command, and says every foreseen error in a sentence."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # `python -m` puts the current folder there, where anything may lie

import logging
import os
import re
import signal
import tempfile
from collections.abc import Sequence
from traceback import format_exception
from types import FrameType

import typer

from hpsearch.cli import app
from hpsearch.cli.options import ALIASES
from hpsearch.errors import HpsearchError, UserError, limit
from hpsearch.service.signals import Signalled, came, heeded, on_hang_up
from hpsearch.text import LineFormatter, carry, fitted, guard, in_lines
from hpsearch.version import __version__

_PASSWORD = re.compile(r"://[^\s/@]*@")

AGAIN = 0.01  # seconds after which a signal is sent again that was ignored

# typer has brought its own copy of click for some time now; this is the root of its errors in either case.
_COMMAND_LINE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]


def main() -> None:
    """Runs the command line and exits with its status."""
    _open_standard_streams()
    # They unwind as Ctrl-C does, so that what was started so far is ended.
    for number in heeded():
        if number != signal.SIGINT:
            signal.signal(number, _leave)
    sys.unraisablehook = _send_again
    try:
        sys.exit(run(sys.argv[1:]))
    except (Signalled, KeyboardInterrupt):  # before a command began, within it, or after it
        sys.exit(_interrupted())


def _open_standard_streams() -> None:
    """Opens what the caller has closed (`>&-`), or the next file, such as a database, would be printed into."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - until the end


def _leave(number: int, frame: FrameType | None) -> None:
    on_hang_up(number)
    came.append(number)
    raise Signalled


def _interrupted() -> int:
    """Returns the exit status of a command that a signal has ended."""
    return 128 + (came[-1] if came else signal.SIGINT)


def _send_again(ignored: "sys.UnraisableHookArgs") -> None:
    """Sends a signal once more whose exception was ignored: it came in a destructor or a weak reference's callback."""
    if issubclass(ignored.exc_type, Signalled | KeyboardInterrupt) and sys.platform != "win32":
        signal.signal(signal.SIGALRM, _after_destructor)
        signal.setitimer(signal.ITIMER_REAL, AGAIN)
    else:
        sys.__unraisablehook__(ignored)


def _after_destructor(number: int, frame: FrameType | None) -> None:
    """Sends that signal; not before the destructor is over, which a busy machine may keep from its end."""
    while frame is not None and frame.f_code is not _send_again.__code__:
        frame = frame.f_back
    if frame is None:
        signal.raise_signal(_interrupted() - 128)
    elif sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, AGAIN)


def run(arguments: list[str]) -> int:
    """Runs one command line and returns its exit status.

    0 for success, 1 for a failure, 2 for what the user can mend (arguments, study, data, storage ...), 130
    after Ctrl-C. What nobody has foreseen is a bug of hpsearch: a sentence, with the details in a file.
    """
    guard()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter("%(message)s"))
    handler.addFilter(_is_error)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    arguments = [_meant(argument) for argument in arguments]
    try:
        _refuse_empty(arguments)
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
    except Exception as error:
        if came:  # it came in the midst of an import, and a library made another error of it
            return _interrupted()
        short = limit(error)
        return _complain(f"{short}; what was stored is kept" if short else _bug_report(error), 1)
    finally:
        carry({})  # a program may call this again
    return status if isinstance(status, int) else 0


def _is_error(record: logging.LogRecord) -> bool:
    """Tells whether a library logs an error: some log a signal too, as the database's does while it closes."""
    error, seen = record.exc_info[1] if record.exc_info else None, set[int]()
    while error is not None and id(error) not in seen:  # one may be its own cause
        if isinstance(error, Signalled | KeyboardInterrupt):
            return False
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return True


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuses an empty argument: as a path it would be the current folder, which nobody has named.

    Raises:
        UserError: there is one.
    """
    before = "hpsearch"
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if not argument or (option.startswith("--") and equals and not value):
            name = option or before
            raise UserError(
                f"{name}: got an empty argument, perhaps from an unset variable; give a value, or leave it out"
            )
        before = argument


def _meant(argument: str) -> str:
    option, equals, value = argument.partition("=")
    return ALIASES.get(option, option) + equals + value


def _bug_report(error: Exception) -> str:
    """Writes a traceback into a file and returns the sentence that says where it is."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    text = f"hpsearch {__version__}, Python {sys.version}, {sys.platform}\n{''.join(format_exception(error))}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="hpsearch-bug-", suffix=".txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(_PASSWORD.sub("://***@", text))
    except OSError as failed:
        return f"{_PASSWORD.sub('://***@', what)}; the details could not be written: {failed.strerror}"
    return (
        f"{_PASSWORD.sub('://***@', what)}; what was stored is kept. This is a bug of hpsearch, please report it with "
        f"{file.name}"
    )


def _complain(sentence: str, status: int) -> int:
    print(fitted(in_lines(f"error: {sentence}"), sys.stderr), file=sys.stderr)
    return status


def usage_sentence(error: Exception, arguments: Sequence[str]) -> str:
    """Returns what is wrong with a command line in one sentence, with the value that was given."""
    message = error.format_message().rstrip(".?").replace(": Input should be", ": must be")  # type: ignore[attr-defined]
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
