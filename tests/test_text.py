"""Text from a database, a file or the network, at every way out: terminal, log, page, Markdown, note, picture."""

import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hpsearch import __main__ as entry
from hpsearch.cli import app
from hpsearch.results.dashboard.notes import study_note, trial_note
from hpsearch.results.plots import charts
from hpsearch.results.plots.interactive import figure
from hpsearch.results.plots.static import draw_figure
from hpsearch.results.report.content import report
from hpsearch.results.report.document import Code, Document, Items, ReportSection, Table, Text, markdown
from hpsearch.results.report.importance import Importances, Share
from hpsearch.results.report.page import page
from hpsearch.results.terminal.display import JsonDisplay, LiveDisplay, PlainDisplay, picture
from hpsearch.results.terminal.lines import columns
from hpsearch.text import LineFormatter, as_code, counted, guard, in_html, in_lines, in_markdown, one_line
from tests.results.searches import record_of, search

BAD = "x\x1b]0;T\x07\x1b[2J\x1b[31m\r\u202e\x9b\u2028\udc80<script>alert(1)</script>![](http://a/b)`|$\\frac"
"""Sets a terminal's title, clears it, turns the direction of writing, breaks lines; loads what it likes in a page."""

STORED = BAD.replace("\udc80", "")  # which no database takes
HARMFUL = "\x1b\x07\r\u202e\x9b\u2028\udc80"


def harmless(text: str) -> bool:
    return not any(character in text for character in HARMFUL)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("día 1 日本 👨‍👩‍👧", "día 1 日本 👨‍👩‍👧"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x9b0m", "\\x1b[31mred\\x9b0m"),
        ("\u202egnp.exe\u2066", "\\u202egnp.exe\\u2066"),
        ("a\u2028b\ufeff\udc80", "a\\u2028b\\ufeff\\udc80"),
        ("x" * 99, "x" * 99),
        ("a" * 70 + "b" * 70, "a" * 66 + "…" + "b" * 33),
    ],
)
def test_one_line_is_one_line(text: str, shown: str) -> None:
    assert one_line(text, 100) == shown


def test_a_later_line_cannot_pass_for_one_of_ours() -> None:
    assert in_lines("s: no such study\nerror: pay here\r\n\tdeep") == (
        "s: no such study\n  error: pay here\n    deep"
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("val_loss", "val_loss"),
        ("_a_ *b*", "\\_a\\_ \\*b\\*"),
        ("<img src=x>", "\\<img src=x>"),
        ("![a](http://x) [b]", "!\\[a\\](http://x) \\[b\\]"),
        ("a|b`c`$d$", "a\\|b\\`c\\`\\$d\\$"),
        ("-0.5", "-0.5"),
        ("- item", "\\- item"),
        ("# big\n# more", "\\# big\\\\n# more"),
    ],
)
def test_markdown_shows_a_text_as_it_is(text: str, shown: str) -> None:
    assert in_markdown(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a|b\n", "`a\\|b\\n`")]
)
def test_code_ends_where_the_text_does(text: str, shown: str) -> None:
    assert as_code(text) == shown


def test_a_table_keeps_its_form_whatever_is_in_its_cells() -> None:
    rows = [("a\nb", "1"), ("c" * 500, "2"), ("日本", "3"), (BAD, "4")]
    lines = columns(("class", "n"), rows)
    assert len(lines) == 5
    assert lines[1].startswith("a\\nb ")
    assert [len(line) for line in lines[:4]] == [
        63,
        63,
        63,
        61,
    ]  # the third's two signs are four columns wide
    assert all(map(harmless, lines))


def test_errors_and_log_records_are_shown_safely(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert entry.run(["best", STORED, "--storage", f"sqlite:///{tmp_path}/none.db"]) == 2
    said = capsys.readouterr().err
    assert harmless(said)
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    record = logging.LogRecord("x", logging.WARNING, "f", 1, "login of %s\nagain", (BAD,), None)
    logged = LineFormatter("%(levelname)s %(message)s").format(record)
    assert harmless(logged)
    assert logged.splitlines()[1] == "  again"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search, and a study of another program whose every text is harmful; the search's trials too."""
    place = tmp_path_factory.mktemp("hostile")
    search(place)
    url = f"sqlite:///{place}/s.db"
    other = optuna.create_study(study_name=STORED, storage=url)
    other.set_user_attr(STORED, STORED)
    other.optimize(lambda trial: trial.suggest_float(STORED, 0, 1), n_trials=2)
    return place


@pytest.mark.parametrize(
    "command",
    ["list", "status -", "best -", "status s", "best s", "status nosuch", "best nosuch", "compare s -",
     "report - --markdown --output {out}", "delete - --yes"],
)  # fmt: skip
def test_no_command_prints_what_a_database_wants_to_do_to_the_terminal(
    folder: Path, tmp_path: Path, command: str
) -> None:
    words = [STORED if word == "-" else word for word in command.split(" ")]
    words = [word.format(out=tmp_path / "r.md") if "{out}" in word else word for word in words]
    extra = ["--storage", f"sqlite:///{folder}/s.db", "--run-folder", str(folder / "runs")]
    if words[0] == "compare":
        words = [*words[:2], "s.confirm"]
    done = CliRunner().invoke(app, [*words, *extra])
    assert harmless(done.output + str(done.exception and in_lines(str(done.exception))))
    if (tmp_path / "r.md").exists():
        assert harmless((tmp_path / "r.md").read_text())


def hostile_record(folder: Path):
    """The search with harm in every text that the database holds."""
    record = record_of(folder)
    facts = dict.fromkeys(("stop_reason", "device", "fit", "error", "worker", "host", "stop_detail"), BAD)
    trials = [
        replace(
            trial,
            hparams={**trial.hparams, BAD: BAD},
            attrs={**trial.attrs, **facts, "metrics_at_best": {BAD: 0.5}},
        )
        for trial in record.trials
    ]
    row = {"trial": record.best.number, "metric": BAD, "n": 5, "mean": 0.5, "std": 0.1, "interval_95": None}
    summary = {
        "study": BAD,
        "metric": BAD,
        "first": record.best.number,
        "statistics": [row],
        "findings": [{"finding": BAD}],
        BAD: BAD,
    }
    attrs = {**record.attrs, "confirm_summary": json.dumps(summary), "versions": {BAD: BAD}}
    return replace(record, name=BAD, metric=BAD, trials=tuple(trials), attrs=attrs)


def test_notes_and_graphs_hold_no_markup_of_others(folder: Path) -> None:
    record = hostile_record(folder)
    notes = [study_note(record), trial_note(record, record.ranked[0], 1)]
    for note in notes:
        assert harmless(note)
        outside = note.replace("\\<", "").replace("\\[", "")
        assert all("`" in line for line in outside.splitlines() if "<script" in line or "![" in line)
    drawn = json.dumps([figure(chart) for chart in charts(record)], ensure_ascii=False)
    assert harmless(drawn)
    assert "<script" not in drawn
    assert "&lt;script" in drawn
    for chart in charts(record):
        draw_figure(chart).canvas.draw()  # "$\\frac" is no formula


def test_a_report_holds_no_markup_of_others(folder: Path) -> None:
    known = Share(1.0, 0.9, 1.0)
    document = report(hostile_record(folder), Importances(9, known, ((BAD, known),)))
    shown = page(document)
    body = shown.partition('<script type="application/json"')[0]
    assert harmless(body)
    assert "<script>alert" not in shown
    assert "&lt;script&gt;alert(1)" in body
    text = markdown(document, "png")
    assert harmless(text)
    outside = text.replace("\\<", "").replace("\\[", "")
    assert all("`" in line for line in outside.splitlines() if "<script" in line or "![](" in line)


def test_every_block_of_a_document_is_escaped() -> None:
    blocks = (Text(BAD), Items((BAD,)), Code(f"a\n{BAD}"), Table((BAD, "n"), ((BAD, "1"),), BAD))
    document = Document(BAD, BAD, (ReportSection(BAD, blocks),))
    html, text = page(document), markdown(document)
    assert harmless(html)
    assert html.count("<script") == 0
    assert harmless(text)
    fenced = text.partition("```")[2].partition("```")[0]
    assert fenced.splitlines()[1] == "a"
    outside = text.replace(fenced, "").replace("\\<", "").replace("\\[", "")
    assert "![](" not in outside
    assert "<script" not in outside
    assert in_html("a" * 10_000).count("a") < 5_000


def test_displays_show_texts_safely(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=200, color_system=None)
    live = LiveDisplay(console)
    live.progress.name = live.progress.metric = BAD
    with console.capture() as caught:
        live.on_message(BAD)
        console.print(picture(live.progress, console))
    assert harmless(caught.get())
    PlainDisplay().on_message(BAD)
    JsonDisplay().on_message(BAD)
    plain, one = capsys.readouterr().out.splitlines()
    assert harmless(plain + one)
    assert json.loads(one)["text"] == BAD  # a program reads the true value


def test_messages_of_libraries_are_shown_safely(capsys: pytest.CaptureFixture[str]) -> None:
    """By handlers of their own, such as Optuna's, and as warnings of Python's."""
    factory, shown = logging.getLogRecordFactory(), warnings.formatwarning
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    library = logging.getLogger("library")
    library.propagate = False
    library.addHandler(handler)
    try:
        guard()
        library.warning("of %s", BAD)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            sys.stderr.write(warnings.formatwarning(UserWarning(BAD), UserWarning, "f.py", 1))
    finally:
        library.removeHandler(handler)
        logging.setLogRecordFactory(factory)
        warnings.formatwarning = shown
    assert harmless(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("count", "things", "shown"),
    [
        (0, "", "0 trials"),
        (1, "", "1 trial"),
        (2, "", "2 trials"),
        (1, "tries", "1 trial"),
        (3, "tries", "3 tries"),
    ],
)
def test_one_is_singular(count: int, things: str, shown: str) -> None:
    assert counted(count, "trial", things) == shown


def test_what_a_command_says_on_a_terminal_is_broken_between_words(tmp_path: Path) -> None:
    driver, terminal = pty.openpty()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hpsearch",
            "best",
            "a-study-that-nobody-has-made",
            "--run-folder",
            str(tmp_path),
        ],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=os.environ | {"COLUMNS": "50"},
        timeout=60,
    )
    os.close(terminal)
    shown = os.read(driver, 10_000).decode().splitlines()
    os.close(driver)
    assert done.returncode == 2
    assert shown[0].startswith("error: ")
    assert len(shown) > 1
    assert all(line.startswith("  ") for line in shown[1:])
    assert all(len(line) <= 50 or " " not in line.strip() for line in shown)
