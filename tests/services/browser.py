"""A real Chromium without a window: the one that is installed, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

#: As distributions call it.
_PROGRAMS: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: How long a page may take to show something that is already so, on a machine with other work.
PATIENCE_MS: Final = 60_000

_HERE: Final = "127.0.0.1"
#: What Chromium says by itself of an answer that is an error, or does not come.
FAILED_REQUEST: Final = "Failed to load resource"


def why_unavailable() -> str:
    """Return why there is no browser; empty when there is one."""
    return "" if _program() else f"no Chromium is installed: none of {', '.join(_PROGRAMS)} was found"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Give a browser. Its driver runs an event loop in this thread: no test with one of its own may run meanwhile."""
    # Chromium's sandbox does not work for root, as in a container.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_program(), args=arguments)
        yield browser
        browser.close()


class Tabs:
    """The pages of one test, and what went wrong in any of them: it must be nothing."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.wrong: list[str] = []

    def open(self, url: str, *, tolerated: str | None = None, **look: Any) -> Page:
        """Open a page in a profile of its own.

        Args:
            tolerated: what errors on the page's console may begin with.
            look: see Playwright's ``new_context``: ``viewport``, ``color_scheme``.
        """
        context = self._browser.new_context(**look)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        # A violation of the content security policy is an error on the console, too.
        page.on("console", lambda message: self._console(message.type, message.text, tolerated))
        page.on("pageerror", lambda error: self.wrong.append(f"a script failed: {error}"))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self._request(request.url))
        page.goto(url)
        return page

    def close(self) -> None:
        for context in self._browser.contexts:
            context.close()

    def _console(self, kind: str, text: str, tolerated: str | None) -> None:
        if kind in {"error", "warning"} and not (tolerated and text.startswith(tolerated)):
            self.wrong.append(f"console: {text}")

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"a script of a user's ran: {dialog.message}")
        dialog.dismiss()

    def _request(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "data" and parts.hostname != _HERE:
            self.wrong.append(f"a request left this machine: {url}")


def _program() -> str | None:
    return next((path for name in _PROGRAMS if (path := shutil.which(name))), None)
