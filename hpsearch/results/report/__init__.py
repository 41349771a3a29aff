"""`hpsearch report`: a study as one HTML page, as Markdown, as PNG files."""

import os
from dataclasses import replace
from pathlib import Path

from hpsearch.files.atomic import write_output
from hpsearch.results.confirm.linked import read_pictures
from hpsearch.results.plots.static import write_pngs
from hpsearch.results.report.content import report
from hpsearch.results.report.document import Document, markdown
from hpsearch.results.report.importance import importances
from hpsearch.results.stored.reading import read_study
from hpsearch.store.keys import SAMPLE
from hpsearch.store.url import redact
from hpsearch.study.specification import SUFFIX

__all__ = ["build_report", "write_report"]


def build_report(name: str | None, url: str, by_search: bool = False, price: float | None = None) -> Document:
    """Reads a study and, if there is one, its confirmation, and returns the report.

    Args:
        by_search: call the search's own first the best, whatever the confirmation says.
        price: of a device's hour.

    Raises:
        StudyNotFound: no study of this name.
        StorageError, StorageAway: the database.
    """
    record = replace(read_study(name, url, redact(url)), by_search=by_search)
    wrong, samples = read_pictures(record.name + SUFFIX, url), read_pictures(record.name, url, SAMPLE)
    shown = tuple(samples[place] for place in sorted(samples))
    return report(record, importances(record), wrong, shown, price)


def write_report(
    document: Document, out: Path, as_markdown: bool = False, png: Path | None = None
) -> list[Path]:
    """Writes a report and returns the files, the report itself first.

    Args:
        out: the HTML or Markdown file.
        png: folder for the charts as PNG files; Markdown then shows them.

    Raises:
        UserError: a file cannot be written, or PNG files are wanted without matplotlib.
    """
    pictures = write_pngs(document.charts(), png) if png is not None else []
    if as_markdown:
        text = markdown(document, os.path.relpath(png, out.parent) if png is not None else "")
    else:
        from hpsearch.results.report.page import page

        text = page(document)
    write_output(out, text.encode(), "--output")
    return [out, *pictures]
