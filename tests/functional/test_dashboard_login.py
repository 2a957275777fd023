"""The pages behind a login, in a real browser: it leads back to where somebody wanted to go, and out again."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

from playwright.sync_api import expect

from feedback_app.settings import Settings
from tests.services.browser import FAILED_REQUEST, PATIENCE_MS, Tabs
from tests.services.workers import QUIET, SHORT_WINDOWS, StartWorker

_TOKEN = "open-sesame"
_AGENT = "<img src=x onerror=alert(1)>"

expect.set_options(timeout=PATIENCE_MS)


def test_a_login_leads_to_the_page_that_was_wanted_and_a_logout_away(
    embedded_broker: str, settings: Callable[..., Settings], start_worker: StartWorker, tabs: Tabs
) -> None:
    worker = start_worker(settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS | QUIET))
    page = tabs.open(f"{worker.url}/feedback/agents/{quote(_AGENT, safe='')}", tolerated=FAILED_REQUEST)
    page.get_by_label("Token").fill(_TOKEN)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(_AGENT)
    expect(page.locator("#partition")).to_contain_text("in partition")
    page.get_by_role("link", name="Dashboard").click()
    expect(page.locator("#link")).to_have_text("Live")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("Token")).to_be_visible()
    # Another tab is led to the login by what it asks for next.
    page.goto(f"{worker.url}/feedback/")
    expect(page.get_by_label("Token")).to_be_visible()
