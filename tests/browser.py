"""A real browser for tests: the system's Chromium, driven by Playwright."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
SECONDS = 60  # a busy machine draws slowly


def chromium_path() -> str | None:
    """Returns the browser's program: HPSEARCH_CHROMIUM, else the system's."""
    named = os.environ.get("HPSEARCH_CHROMIUM")
    if named:
        return named if Path(named).is_file() else None
    return shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Trouble:
    """What went wrong on a page: errors in its console, refusals of its policy, failed requests, dialogs."""

    errors: list[str] = field(default_factory=list)

    def watch(self, page: Any) -> None:
        page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("requestfailed", self._failed)
        page.on("dialog", self._dialog)

    def _failed(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # that is a page which was left while it was asking
            self.errors.append(f"{request.url}: {request.failure}")

    def _dialog(self, dialog: Any) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Playwright's Browser; a test that uses it carries the marker `browser`.

    It does not outlive its module: Playwright's event loop runs in this thread, and other tests fork and signal.
    """
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium: install the system's package, or name a program in HPSEARCH_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=_FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened_page(chromium: Any, **context: Any) -> Iterator[tuple[Any, Trouble]]:
    """Yields an empty page of a fresh browser profile, and what goes wrong on it.

    Args:
        context: options of Playwright's `new_context`: `http_credentials`, `offline`, `accept_downloads` ...
    """
    profile = chromium.new_context(**context)
    profile.set_default_timeout(SECONDS * 1000)
    page, trouble = profile.new_page(), Trouble()
    trouble.watch(page)
    try:
        yield page, trouble
    finally:
        profile.close()
