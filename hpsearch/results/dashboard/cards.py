"""What stands on the cards of optuna-dashboard's list: what a study is, how far it is, whether it runs.

The list itself shows names and directions alone. A script in its page asks for our lines and writes them below.
"""

import functools
import json
from collections.abc import Callable, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import bottle
import optuna_dashboard
from optuna.storages import RDBStorage

from hpsearch.errors import StorageAway, StorageError
from hpsearch.results.stored.listing import StudyRow, study_rows
from hpsearch.results.stored.status import living_drivers
from hpsearch.results.terminal.lines import age
from hpsearch.results.terminal.progress import in_words, number
from hpsearch.store.identity import DriverRow
from hpsearch.store.reader import reader_of
from hpsearch.text import counted, one_line

_PAGE = "/dashboard<:re:(/.*)?>"
_SCRIPT, _LINES = "/hpsearch/cards.js", "/hpsearch/cards"


class Cards:
    """A plugin of Bottle, on which optuna-dashboard is built: the page with the script, and what it asks for."""

    name = "hpsearch-cards"
    api = 2

    def __init__(self, storage: RDBStorage) -> None:
        self._storage = storage

    def setup(self, app: bottle.Bottle) -> None:
        """Adds the script and its lines to an application."""
        app.get(_SCRIPT, callback=_script)
        app.get(_LINES, callback=self._lines)

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Returns the function that answers a route in place of the dashboard's own."""
        return (lambda *_: _page()) if route.rule == _PAGE else callback

    def _lines(self) -> Any:
        try:
            with reader_of(self._storage) as reader:
                rows = study_rows(reader, None)
                lines = {row.study_id: card_lines(row, living_drivers(reader, row.study_id)) for row in rows}
        except (StorageAway, StorageError) as error:
            return bottle.HTTPResponse(
                f"{error}\n", HTTPStatus.SERVICE_UNAVAILABLE, {"Content-Type": "text/plain"}
            )
        return bottle.HTTPResponse(json.dumps(lines), headers={"Content-Type": "application/json"})


def card_lines(row: StudyRow, drivers: Sequence[DriverRow]) -> list[str]:
    """Returns what a card says of a study.

    Args:
        drivers: those that run it now.
    """
    asked = None if row.total is None else f"{row.finished} of {counted(row.total, 'trial')}"
    trials = asked or counted(row.finished, "trial")
    best = [] if row.best is None else [f"best {row.metric} {number(row.value)}", row.status]
    far = ", ".join(filter(None, [f"{trials} finished", *best]))
    return [one_line(in_words(line)) for line in (row.what, far, _standing(row, drivers)) if line]


def _standing(row: StudyRow, drivers: Sequence[DriverRow]) -> str:
    """Returns whether a study runs."""
    if drivers:
        return f"running on {counted(sum(len(json.loads(driver.workers)) for driver in drivers), 'worker')}"
    if row.started is None:
        return "not running, no trial has begun"
    when = f"began {age(row.started)}" if row.changed is None else f"last changed {age(row.changed)}"
    unfinished = any(row.counts.get(state) for state in ("PAUSED", "RUNNING", "WAITING"))
    is_complete = row.total is not None and row.finished >= row.total and not unfinished
    return f"{'complete' if is_complete else row.ended or 'not running'}, {when}"


def _script() -> Any:
    return bottle.HTTPResponse(_CODE, headers={"Content-Type": "text/javascript; charset=utf-8"})


def _page() -> Any:
    """Answers with optuna-dashboard's page, our script in its head."""
    return bottle.HTTPResponse(_read_page(), headers={"Content-Type": "text/html; charset=utf-8"})


@functools.cache
def _read_page() -> str:
    page = (Path(optuna_dashboard.__file__).parent / "index.html").read_text(encoding="utf-8")
    return page.replace("</head>", f'<script defer src="{_SCRIPT}"></script>\n</head>', 1)


_CODE = """
"use strict";
// Where a later version builds its cards otherwise, none is found and nothing is written.
const CARD = 'a.MuiCardActionArea-root[href*="/studies/"]';
let lines = {};

function write() {
  for (const content of document.querySelectorAll(`${CARD} .MuiCardContent-root`)) {
    const study = new URL(content.closest(CARD).href).pathname.split("/").pop();
    const text = (lines[study] ?? []).join("\\n");
    let place = content.querySelector(".hpsearch-card");
    if (!place && text) {
      place = document.createElement("div");
      place.className = "hpsearch-card";
      place.style = "white-space: pre-line; font: 0.875rem/1.5 Roboto, sans-serif; opacity: 0.8; margin-top: 4px";
      content.append(place);
    }
    // Only what differs, since the observer is told of our own changes too.
    if (place && place.textContent !== text) place.textContent = text;
  }
}

async function ask() {
  if (document.hidden || !document.querySelector(CARD)) return;
  const answer = await fetch("/hpsearch/cards").catch(() => null);  // the list itself says that nobody answers
  if (answer?.ok) lines = await answer.json();
  write();
}

let shown = false;
new MutationObserver(() => {
  const appeared = document.querySelector(CARD) !== null;
  if (appeared && !shown) ask();
  shown = appeared;
  if (appeared) write();
}).observe(document.documentElement, { childList: true, subtree: true });
setInterval(ask, 30000);
"""
