"""Text from elsewhere (a database, a file, the network) on its way to a terminal, a log or a page.

    sentence, cell, label      one_line    no line ends, nothing invisible, not endless
    error, log record          in_lines    its later lines are indented: none of them can pass for one of ours
    a terminal's line          at_words    broken between words
    HTML                       in_html     one_line, escaped
    a command to be copied     proposed    with --storage and the like; in_lines and say find those in backquotes
    Markdown                   in_markdown, as_code

What a program reads (JSON, CSV, Parquet) keeps the true value.
"""

import dataclasses
import html
import logging
import math
import os
import re
import shlex
import shutil
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

LONGEST = 4000  # characters of a line
LABEL = 200  # of a name in a page or a note

# Line and paragraph separators, half characters, what turns the direction of writing or cannot be seen.
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
_JOINERS = "\u200c\u200d"  # Persian, Hindi and compound emoji need them

_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|<(?=[\w/!?])|&(?=[\w#])|(?<!\w)_|_(?!\w)|^>|^[#+=-](?![\w.])")


def one_line(value: object, most: int = LONGEST) -> str:
    r"""Returns a text as it may stand in one line of ours; one that is too long loses its middle.

    >>> one_line("x\x1b[2J\nerror: \u202e")
    'x\\x1b[2J\\nerror: \\u202e'
    """
    text = _shortened(str(value), most)
    return text if text.isprintable() else _shortened("".join(map(_visible, text)), most)


def _shortened(text: str, most: int) -> str:
    tail = most // 3
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[len(text) - tail :]}"


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def counted(count: int, thing: str, things: str = "") -> str:
    """Returns "1 epoch" or "3 epochs".

    Args:
        things: the plural, where it is not made by an "s".
    """
    return f"{count} {thing if count == 1 else things or f'{thing}s'}"


def as_sentence(words: str) -> str:
    """Returns words that end without a full stop as a sentence."""
    return f"{words[:1].upper()}{words[1:]}."


def first_few(names: Iterable[str], most: int = 5) -> str:
    """Returns names in a row, of many only the first.

    >>> first_few("abc", most=2)
    'a, b, ...'
    """
    shown = list(names)
    return ", ".join(shown[:most]) + (", ..." if len(shown) > most else "")


def in_lines(text: str) -> str:
    """Returns an error or a log record, which may have several lines: all but the first are indented."""
    text = _completed(text)
    first, *rest = (one_line(line.rstrip("\r").replace("\t", "    ")) for line in text.split("\n"))
    return "\n".join([first, *(line if line[:1] in ("", " ") else f"  {line}" for line in rest)])


_CARRIED: dict[str, str] = {}
_FILE = [""]
_PROPOSED = re.compile(r"`(hpsearch [a-z]+[^`]*)`")


def carry(flags: Mapping[str, str], file: str = "") -> None:
    """Sets what the commands that are proposed from now on must be given too, such as --storage, by their names.

    Args:
        file: the study file that the running command was given.
    """
    _CARRIED.clear()
    _CARRIED.update(flags)
    _FILE[0] = file


def study_argument(name: str, has_own_code: bool) -> str:
    """Returns how a proposed command names a study: code of its own is found beside its file alone."""
    return shlex.quote((has_own_code and _FILE[0]) or name)


def proposed(command: str) -> str:
    """Returns a command of ours as it has to be typed after the one that runs."""
    flags = _CARRIED.get(command.split()[1], "")
    return command if command.endswith(flags) else command + flags


def _completed(text: str) -> str:
    """Returns a text whose commands between backquotes can be copied."""
    return _PROPOSED.sub(lambda found: f"`{proposed(found[1])}`", text) if _CARRIED else text


def at_words(text: str, width: int) -> str:
    """Returns lines for a terminal of so many columns: sentences are broken between words, further lines indented.

    Tables and what is indented, such as commands to be copied, stay as they are.

    >>> at_words("error: the file is gone", 16)
    'error: the file\\n  is gone'
    """
    return "\n".join(_at_words(line, width) for line in text.split("\n"))


def fitted(text: str, stream: TextIO) -> str:
    """Returns lines as they are printed: `at_words` on a terminal."""
    return at_words(text, shutil.get_terminal_size().columns) if stream.isatty() else text


def _at_words(line: str, width: int) -> str:
    if len(line) <= width or line.startswith(" ") or "  " in line:
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def in_html(value: object, most: int = LONGEST) -> str:
    """Returns a text as it may stand in a page, between tags or in an attribute."""
    return html.escape(one_line(value, most))


def in_html_table(title: object, pairs: Mapping[str, Any]) -> str:
    """Returns what a notebook shows of an object: its title, and names with their values."""
    rows = (f"<tr><td>{in_html(name)}</td><td>{in_html(value)}</td></tr>" for name, value in pairs.items())
    return f"{in_html(title)}<table>{''.join(rows)}</table>"


def in_markdown(value: object, most: int = LONGEST) -> str:
    """Returns a text whose every character Markdown shows as it is: no link, no picture, no tag, no new cell."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(value, most))


def as_code(value: object, most: int = LABEL) -> str:
    """Returns a text as code in a line of Markdown, also in a cell of a table."""
    text = one_line(value, most).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * (text[:1] == "`" or text[-1:] == "`")
    return f"{fence}{space}{text}{space}{fence}"


def say(*lines: object, err: bool = False) -> None:
    """Prints lines, the only way of the commands to the terminal."""
    import typer  # a program that only uses the errors has no need of it

    typer.echo(
        fitted(
            "\n".join(one_line(_completed(str(line))) for line in lines), sys.stderr if err else sys.stdout
        ),
        err=err,
    )


def plain(value: Any) -> Any:
    """Returns records as JSON takes them: no NaN and no infinities, which JSON has no words for."""
    if hasattr(value, "model_dump"):  # of pydantic
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str | int | None):
        return value
    return [plain(inner) for inner in value] if isinstance(value, Iterable) else str(value)


class _LogRecord(logging.LogRecord):
    """A log record whose message is safe whoever shows it, such as the handler that Optuna brings along."""

    def getMessage(self) -> str:
        return in_lines(super().getMessage())


def guard() -> None:
    """Lets the messages of all libraries' loggers, and Python's warnings, pass through this module."""
    logging.setLogRecordFactory(_LogRecord)
    if warnings.formatwarning is not _warning:
        warnings.formatwarning = _warning


def _warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    return in_lines(f"{filename}:{lineno}: {category.__name__}: {message}") + "\n"


class LineFormatter(logging.Formatter):
    """Formats log records, whatever they quote, so that one is one."""

    def format(self, record: logging.LogRecord) -> str:
        return in_lines(super().format(record))


def write_at_once(output: TextIO, text: str) -> None:
    """Writes a text at once; when its reader has gone, as in `| head -1`, the study continues unseen."""
    try:
        output.write(text)
        output.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, output.fileno())
        os.close(nowhere)
