"""The signals that end a command gracefully."""

import errno
import os
import signal
import sys

if sys.platform != "win32":
    import termios

GRACEFUL = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
"""Signals that end a run gracefully: of a person, of the system, of a terminal that closes, and the warnings that
schedulers send before a time limit."""

came: list[int] = []
"""Those that have come before a run began: an import that one interrupts may swallow what it raises."""


class Signalled(BaseException):
    """A signal ends the command; what was started is ended on the way out.

    Not SystemExit, which code of the user's own may raise, so that it is caught as the user's fault; nor
    KeyboardInterrupt: once it has passed through `exec`, Python ends by SIGINT whatever the exit status is.
    """


def heeded() -> list[signal.Signals]:
    """Returns the graceful signals but for SIGHUP where `nohup` has switched it off."""
    return [
        number for number in GRACEFUL if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
    ]


def on_hang_up(number: int) -> None:
    """Lets what is written to a terminal that has closed (SIGHUP) go nowhere, instead of being an error."""
    if sys.platform == "win32" or number != signal.SIGHUP:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            descriptor = stream.fileno()
            termios.tcgetattr(descriptor)
        except termios.error as error:
            if error.args[0] == errno.EIO:  # ENOTTY means a file or a pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        except (OSError, ValueError):  # closed, or a stand-in without a descriptor
            continue
