"""The pages in a real browser, on real workers: what people see, and that nothing which a user wrote runs there.

In every test a page may log no error, break no rule of its content security policy, open no dialog and ask nobody but
this machine: see ``Tabs``.
"""

from __future__ import annotations

import base64
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics
from tests.services.browser import FAILED_REQUEST, PATIENCE_MS, Tabs
from tests.services.workers import QUIET, SHORT_WINDOWS, StartWorker, until

MakeSettings = Callable[..., Settings]

_IMAGE = "<img src=x onerror=alert(1)>"
_SCRIPT = "<script>alert(2)</script>"
_LONG = "W" * 128
_PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "is_mobile": True,
    "has_touch": True,
    "device_scale_factor": 2,
}
_FINE = re.compile("^All workers answer, all partitions are counted, ")

expect.set_options(timeout=PATIENCE_MS)


def publish(settings: Settings, agents: Iterable[str], **fields: Any) -> None:
    """Publish one event for each of *agents*, all of this moment, hence of one window."""
    now = time.time_ns() // 1_000_000
    with FeedbackPublisher(settings) as publisher:
        for number, agent in enumerate(agents):
            event: dict[str, Any] = {
                "feedbackId": f"f-{time.time_ns()}-{number}",
                "agentId": agent,
                "userId": "u-1",
                "rating": "positive",
                "timestamp": now,
            }
            publisher.publish(event | fields)


def publish_raw(settings: Settings, values: Iterable[bytes]) -> None:
    with FeedbackPublisher(settings) as publisher:
        for value in values:
            publisher.publish_bytes(b"key", value)


def open_dashboard(tabs: Tabs, worker: WorkerProcess, **options: Any) -> Page:
    """Open a worker's dashboard, and wait until it is live."""
    page = tabs.open(f"{worker.url}/feedback/", **options)
    expect(page.locator("#link")).to_have_text("Live")
    return page


def card(page: Page, group: str, name: str) -> Locator:
    """Return the figure of that *name*."""
    cards = page.locator(f"#{group} .card").filter(has=page.get_by_text(name, exact=True))
    return cards.locator(".value")


def agent_path(agent: str) -> str:
    return f"/feedback/agents/{quote(agent, safe='')}"


def owners(page: Page) -> set[str]:
    """Return who owns partitions, as the page shows it."""
    return {text.strip() for text in page.locator("#partitions tbody td:nth-child(2)").all_inner_texts()}


def address(worker: WorkerProcess) -> str:
    return worker.url.removeprefix("http://")


# -- the dashboard ----------------------------------------------------------------------------------------------------


def test_the_dashboard_shows_the_cluster_and_follows_it(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS)
    worker = start_worker(ours)
    page = open_dashboard(tabs, worker)
    expect(page.locator("#notices li")).to_have_text([_FINE])
    # The figures of docs/operations.md, by their names.
    expect(page.locator("#figures dt")).to_have_text(
        ["Flush rate", "Batch size", "Batches in memory", "MongoDB operations", "Events published", "Batch age"]
    )
    expect(page.locator("#partitions tbody tr")).to_have_count(ours.partitions)
    assert owners(page) == {address(worker)}
    expect(page.locator("#workers tbody tr th")).to_have_text([f"{address(worker)} (this one)"])
    expect(card(page, "totals", "Records read")).to_have_text("0")
    expect(page.locator("#agents .none")).to_have_text("No window has closed yet.")

    # Nothing is loaded again from here on: the page follows by itself.
    page.evaluate("window.untouched = true")
    publish(ours, ["agent-1"] * 20 + ["agent-2"] * 3)
    publish(ours, ["agent-2"] * 9, rating="negative")
    publish_raw(ours, [b"no event"])
    expect(card(page, "totals", "Records read")).to_have_text("33")
    expect(card(page, "totals", "Counted")).to_have_text("32")
    expect(card(page, "totals", "Dead letters")).to_have_text("1")
    # Windows close, so every figure gets a value ...
    for name in ("Flush rate", "Batch size", "MongoDB operations", "Events published"):
        expect(card(page, "figures", name)).to_have_text(_positive())
    expect(card(page, "figures", "Batch age")).to_have_text(_positive(" s"))
    expect(card(page, "now", "MongoDB")).to_have_text("up")
    # ... the agents appear, in either order ...
    agents = page.locator("#agents tbody th")
    expect(agents).to_have_text(["agent-1", "agent-2"])
    page.get_by_role("button", name="By negative share").click()
    expect(agents).to_have_text(["agent-2", "agent-1"])
    expect(page.locator("#agents tbody tr").first).to_contain_text("75.0 %")
    # ... and the charts get lines in the colours of their legends.
    expect(page.locator("#charts figure")).to_have_count(6)
    page.wait_for_function(_LINE_IS_DRAWN)
    assert page.evaluate("window.untouched") is True

    # From here to an agent, by link and by search, and to the dead letters.
    page.get_by_role("link", name="agent-2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("agent-2")
    page.get_by_role("searchbox", name="agentId").fill("agent-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("agent-1")
    page.get_by_role("link", name="Dashboard").click()
    page.locator("#totals").get_by_role("link", name="Dead letters").click()
    expect(page.locator("#letters tbody tr")).to_have_count(1)


#: Whether the first chart has a pixel in the colour of its first line.
_LINE_IS_DRAWN = """() => {
  const canvas = document.querySelector("#charts canvas");
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--series-1").trim();
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  for (let at = 0; at < data.length; at += 4) {
    if (data[at] === r && data[at + 1] === g && data[at + 2] === b && data[at + 3] === 255) return true;
  }
  return false;
}"""


def _positive(unit: str = "") -> re.Pattern[str]:
    return re.compile(rf"^(?=.*[1-9])[\d.,]+{unit}$")


def test_the_figures_come_all_the_same_where_no_stream_can_be_had(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET)
    worker = start_worker(ours)
    page = tabs.open("about:blank", tolerated=FAILED_REQUEST)
    page.route("**/feedback/stream", lambda route: route.abort())
    page.goto(f"{worker.url}/feedback/")
    expect(page.locator("#link")).to_have_text("Asking every 3 s: the live stream can't be had")
    publish(ours, ["agent-1"] * 7)
    expect(card(page, "totals", "Counted")).to_have_text("7")


def test_whoever_is_not_logged_in_comes_back_after_the_login(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    worker = start_worker(settings(embedded_broker, **SHORT_WINDOWS | QUIET))
    page = tabs.open("about:blank", tolerated=FAILED_REQUEST)
    refused = {"status": 401, "content_type": "application/json", "body": '{"error": "a bearer token is needed"}'}
    page.route("**/feedback/dead-letters?*limit=50*", lambda route: route.fulfill(**refused))
    page.goto(f"{worker.url}/feedback/dead-letters?error=empty")
    page.wait_for_url("**/feedback/login?next=%2Ffeedback%2Fdead-letters%3Ferror%3Dempty")


def test_a_lost_worker_is_told_from_a_quiet_one(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET)
    worker = start_worker(ours)
    page = open_dashboard(tabs, worker, tolerated=FAILED_REQUEST)
    worker.kill()
    expect(page.locator("#link")).to_contain_text("Connection lost")
    expect(page.locator("#notices")).to_contain_text("The figures below are old")
    expect(page.locator("#age")).to_have_text(_old())
    worker.start()
    worker.wait_until_ready()
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#notices li")).to_have_text([_FINE])


def _old() -> re.Pattern[str]:
    return re.compile(r"^Figures of [\d:]+, ([7-9]|\d\d+) s old$")


def test_partitions_of_a_killed_worker_change_owner_on_the_page(
    kafka: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    one, other = (start_worker(settings(kafka, **SHORT_WINDOWS | {"partitions": 4})) for _ in range(2))
    page = open_dashboard(tabs, one)
    both = {address(one), address(other)}
    rows = page.locator("#partitions tbody tr")
    expect(rows).to_have_count(4)
    expect(rows.filter(has_text=address(other))).to_have_count(2)
    expect(rows.filter(has_text="ready")).to_have_count(4)
    assert owners(page) == both
    link = page.locator("#workers").get_by_role("link", name=address(other))
    assert link.get_attribute("href") == f"{other.url}/feedback/"

    other.kill()
    # Before the group notices, and after.
    expect(page.locator("#notices")).to_contain_text(f"Worker {other.url} does not answer")
    expect(rows.filter(has_text=address(one))).to_have_count(4)
    expect(rows.filter(has_text="ready")).to_have_count(4)
    expect(page.locator("#notices li")).to_have_text([_FINE])
    expect(page.locator("#workers tbody tr")).to_have_count(1)


def test_the_page_says_when_the_database_is_away_and_back(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "database") as database:
        ours = settings(embedded_broker, mongodb_url=database.url, **SHORT_WINDOWS)
        worker = start_worker(ours)
        page = open_dashboard(tabs, worker, tolerated=FAILED_REQUEST)
        publish(ours, ["agent-1"] * 5)
        expect(card(page, "now", "MongoDB")).to_have_text("up")
        expect(page.locator("#agents tbody th")).to_have_text(["agent-1"])

        database.kill()
        publish(ours, ["agent-1"] * 6)
        expect(card(page, "now", "MongoDB")).to_have_text("away")
        expect(page.locator("#notices")).to_contain_text("MongoDB is away")
        expect(page.locator("#agents-note")).to_contain_text("the database does not answer")
        expect(card(page, "now", "Due")).to_have_text(_positive())  # they wait
        agent = tabs.open(worker.url + agent_path("agent-1"))
        expect(agent.locator("#open h3")).to_have_count(1)
        expect(agent.locator("#recent-note")).to_contain_text("the database does not answer")

        database.start()
        expect(page.locator("#notices li")).to_have_text([re.compile("the database takes writes")])
        expect(card(page, "now", "MongoDB")).to_have_text("up")
        expect(card(page, "now", "Due")).to_have_text("0")
        expect(page.locator("#agents-note")).to_be_hidden()
        expect(agent.locator("#recent-note")).to_be_hidden()
        expect(agent.locator("#recent tbody td:nth-child(2)").first).to_have_text("6")


# -- what users wrote -------------------------------------------------------------------------------------------------


def test_an_agent_s_page_shows_its_windows_and_takes_names_and_tags_for_text(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS)
    worker = start_worker(ours)
    names = [_IMAGE, "a/b?c#d", "Zoë ☃ 100%", '"><script>alert(3)</script>', _LONG]
    now = time.time_ns() // 1_000_000
    publish(ours, names, tags=["<b>bold</b>"], score=4, comment=_SCRIPT, timestamp=now)
    publish(ours, [_IMAGE] * 2, rating="negative", score=1, timestamp=now)

    page = open_dashboard(tabs, worker)
    expect(page.locator("#agents tbody th")).to_have_count(len(names))
    assert set(page.locator("#agents tbody th").all_inner_texts()) == set(names)
    for name in names:
        page.locator("#agents").get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect(page.locator("#recent tbody tr")).to_have_count(1)
        page.go_back()

    page.goto(worker.url + agent_path(_IMAGE))
    cells = page.locator("#recent tbody tr").first.locator("td")
    expect(cells).to_have_text(["3", "1", "0", "2", "66.7 %", "2", "1", "<b>bold</b> 1", "0"])
    expect(page.locator("#ratings .key")).to_have_text(
        ["positive 1 (most 1)", "neutral 0 (most 0)", "negative 2 (most 2)"]
    )
    assert page.title() == f"Feedback: {_IMAGE}"
    assert page.locator("img, main script, main b").count() == 0
    # A window opens while somebody looks: one that stays open for long.
    publish(ours, [_IMAGE] * 4, timestamp=now + 120_000)
    expect(page.locator("#open .card").filter(has_text="Events").locator(".value")).to_have_text("4")
    expect(page.locator("#ratings .key").first).to_have_text("positive 4 (most 4)")

    # What no agent is called, and what can't be.
    page.goto(worker.url + agent_path("nobody"))
    expect(page.locator("#recent .none")).to_have_text("No window of this agent has closed.")
    wrong = tabs.open(worker.url + agent_path("x" * 129), tolerated=FAILED_REQUEST)
    expect(wrong.locator("#note")).to_contain_text("an agentId has 1 to 128 characters")


def test_dead_letters_are_shown_to_the_byte_and_run_nothing(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tabs: Tabs
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS | QUIET)
    worker = start_worker(ours)
    hostile = f'{{"agentId": "{_IMAGE}", "comment": "{_SCRIPT}"}}'.encode() + bytes([0xFF, 0x00, 0x0A])
    publish_raw(ours, [b""] * 60)
    publish_raw(ours, [hostile])

    page = open_dashboard(tabs, worker)
    expect(card(page, "totals", "Dead letters")).to_have_text("61")
    page.goto(f"{worker.url}/feedback/dead-letters")
    rows = page.locator("#letters tbody tr")
    expect(rows).to_have_count(50)
    # By page, and back.
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**before=*")
    expect(rows).to_have_count(11)
    page.get_by_role("link", name="Newest").click()
    expect(rows).to_have_count(50)
    # By error, which stays for the next page.
    page.get_by_label("Error").fill("empty")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**error=empty")
    expect(rows.locator("td:nth-child(3)").first).to_have_text("empty")
    page.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(10)
    page.get_by_role("link", name="Show all").click()
    expect(rows).to_have_count(50)
    page.get_by_label("Error").fill(_IMAGE)
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#letters .none")).to_have_text("There is no letter with this error.")
    expect(page.get_by_label("Error")).to_have_value(_IMAGE)

    page.get_by_role("link", name="Show all").click()
    row = rows.filter(has_text=_IMAGE)
    expect(row).to_contain_text(_SCRIPT)
    row.get_by_role("link").click()
    expect(page.locator("#facts")).to_contain_text("feedback, partition")
    expect(page.locator("#text")).to_contain_text(f'"{_IMAGE}", "comment": "{_SCRIPT}"}}\ufffd')
    expect(page.locator("#bytes")).to_contain_text("7d ff 00 0a")
    page.get_by_role("button", name="Base64").click()
    expect(page.locator("#bytes")).to_have_text(base64.b64encode(hostile).decode())
    expect(page.locator("#headers")).to_contain_text("feedback-error")
    assert page.locator("img, main script").count() == 0
    missing = tabs.open(f"{worker.url}/feedback/dead-letters/0/99999", tolerated=FAILED_REQUEST)
    expect(missing.locator("#note")).to_have_text("there is no such letter.")


# -- who looks --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(
    embedded_broker: str, database: EmbeddedDatabase, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[str]]:
    """All pages of a worker that has something to show on each, and names that no screen is wide enough for."""
    unique, directory = f"t{uuid.uuid4().hex[:12]}", tmp_path_factory.mktemp("looks")
    ours = load_settings(
        broker_url=embedded_broker,
        mongodb_url=database.url,
        mongodb_database=unique,
        app_id=unique,
        topic_prefix=f"{unique}-",
        data_dir=directory / "data",
        web_port=free_port(),
        _env_file=None,
        **SHORT_WINDOWS,
    )
    ensure_topics(ours, Topics.of(ours).specs())
    with WorkerProcess(ours, directory / "worker.log") as worker:
        worker.wait_until_ready()
        publish(ours, [_LONG, "agent-1", "agent-2"], tags=["W" * 32], score=3)
        publish_raw(ours, [b"W" * 2_000])
        until(lambda: worker.get("/feedback/agents")[1]["agents"])
        until(lambda: worker.get("/feedback/dead-letters")[1]["letters"])
        (letter,) = worker.get("/feedback/dead-letters")[1]["letters"]
        paths = ["/feedback/", agent_path(_LONG), "/feedback/dead-letters"]
        paths.append(f"/feedback/dead-letters/{letter['partition']}/{letter['offset']}")
        yield [worker.url + path for path in paths]


def wait_until_shown(page: Page) -> None:
    """Wait until a page has got its data."""
    expect(page.locator("tbody tr").first).to_be_visible()


def test_a_phone_shows_all_without_scrolling_sideways(pages: list[str], tabs: Tabs) -> None:
    for url in pages:
        page = tabs.open(url, **_PHONE)
        wait_until_shown(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_shut_out_by_colours_or_missing_names(pages: list[str], tabs: Tabs, scheme: str) -> None:
    """Contrast, labels, landmarks, tables: what axe-core checks by the rules of WCAG."""
    for url in pages:
        page = tabs.open(url, color_scheme=scheme)
        wait_until_shown(page)
        found = Axe().run(page).response["violations"]
        assert [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found] == []
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(246, 247, 249)", "dark": "rgb(18, 22, 28)"}[scheme]


def test_charts_change_their_colours_with_the_page(pages: list[str], tabs: Tabs) -> None:
    page = tabs.open(pages[0], color_scheme="light")
    page.wait_for_function(_LINE_IS_DRAWN)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(_LINE_IS_DRAWN)


def test_without_the_chart_library_the_figures_stay(pages: list[str], tabs: Tabs) -> None:
    page = tabs.open("about:blank", tolerated=FAILED_REQUEST)
    page.route("**/charts.bundle.js", lambda route: route.abort())
    page.goto(pages[0])
    expect(page.locator("#charts .none")).to_have_count(6)
    expect(page.locator("#charts .words").first).to_contain_text("read")
    expect(card(page, "totals", "Counted")).to_have_text("3")


def test_a_keyboard_is_enough_and_keeps_its_place(pages: list[str], tabs: Tabs) -> None:
    page = tabs.open(pages[0], reduced_motion="reduce")
    expect(page.locator("#agents tbody th").first).to_be_visible()
    focused = page.locator(":focus")
    page.keyboard.press("Tab")
    expect(focused).to_have_text("Skip to the content")
    assert (focused.bounding_box() or {"y": -1})["y"] >= 0
    page.keyboard.press("Enter")
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(focused.inner_text())
        outline = focused.evaluate("node => getComputedStyle(node).outlineStyle")
        assert outline == "solid", seen[-1]
        if seen[-1] == "By negative share":
            break
    page.keyboard.press("Enter")
    expect(focused).to_have_attribute("aria-pressed", "true")
    # None of the three agents has ten events; they come back with the other order.
    expect(page.locator("#agents .none")).to_be_visible()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    link = page.locator("#agents").get_by_role("link", name="agent-1", exact=True)
    link.focus()
    shown = page.locator("#age time")
    for _ in range(3):  # the figures change, the focus does not
        before = shown.get_attribute("datetime")
        expect(shown).not_to_have_attribute("datetime", before or "")
        expect(link).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("agent-1")
