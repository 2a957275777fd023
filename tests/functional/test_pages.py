"""What the web port serves, to whom, and that nothing that a user wrote can become anything but data in it."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from aiohttp import web

from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.factory import create_app
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web.peers import FORWARDED, owner_of
from feedback_app.web.token import open_to_others

MakeSettings = Callable[..., Settings]

_TOKEN = "open-sesame"
_ALLOWED = {"Authorization": f"Bearer {_TOKEN}"}
_PARTITIONS = 3
_FAUST_PAGES = ["/router/", "/router/topics", "/table/", "/performance/", "/assignment/", "/graph/"]

#: A letter each for HTML, quotes, paths, URLs, formats, other scripts and lines.
_AGENTS = [
    "<script>alert(1)</script>",
    "<img src=x onerror='alert(\"1\")'>",
    "a/b",
    "/",
    "..",
    ".",
    "../../health/live",
    "a%2Fb",
    "100%",
    "a b+c&d=e?f#g;h",
    "{agent_id}",
    "\\..\\",
    "Zoë ☃ 😀 \u202e",
    "two\r\nlines",
    "agent-1",
]


# -- every answer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/health/live", 200),
        ("GET", "/health/ready", 503),
        ("HEAD", "/health/live", 200),
        ("GET", "/<script>alert(1)</script>", 404),
        ("GET", "/feedback/agents/", 404),
        ("DELETE", "/feedback/agents/agent-1", 405),
        ("GET", "/feedback/partitions", 200),
        ("GET", "/feedback/overview", 200),
        ("HEAD", "/feedback/overview", 200),
        ("POST", "/feedback/overview", 405),
        ("GET", "/feedback/history", 200),
        ("GET", "/feedback/agents", 200),
        ("GET", "/feedback/agents?order=<script>", 400),
        ("GET", "/feedback/dead-letters/<script>/1", 400),
        ("POST", "/feedback/events", 415),
        ("GET", "/feedback/events", 405),
        ("HEAD", "/feedback/events", 405),
        ("POST", "/health/live", 405),
    ],
)
async def test_every_answer_is_json_that_no_browser_takes_for_a_page(
    offline: MakeSettings, serve: Callable[..., Any], method: str, path: str, status: int, allowed: bool
) -> None:
    client = await serve(create_app(offline(web_token=_TOKEN)))
    # Whoever has no login, and takes HTML, gets the login page instead: see test_login.
    headers = _ALLOWED | {"Accept": "text/html"} if allowed else {}
    async with client.request(method, path, headers=headers) as answer:
        assert answer.status == (status if allowed or path.startswith("/health/") else 401)
        assert answer.content_type == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        body = await answer.text()
    assert "<" not in body
    assert method == "HEAD" or orjson.loads(body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/feedback/agents/agent-1", 503),
        (f"/feedback/agents/{'<' * 129}", 400),
        ("/feedback/dead-letters?limit=<script>", 400),
        ("/feedback/dead-letters/0/0", 503),
    ],
)
async def test_a_program_gets_json_where_a_browser_gets_a_page(
    offline: MakeSettings, serve: Callable[..., Any], path: str, status: int
) -> None:
    client = await serve(create_app(offline()))
    async with client.get(path) as answer:
        assert (answer.status, answer.content_type) == (status, "application/json")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "<" not in await answer.text()


async def test_a_page_that_fails_tells_and_logs_no_message(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(offline())
    written = "<b>what a user wrote</b>"

    def fail() -> str:
        raise RuntimeError(written)

    monkeypatch.setattr(app.windows, "not_ready", fail)
    client = await serve(app)
    async with client.get("/health/ready") as answer:
        assert (answer.status, await answer.json()) == (500, {"error": "internal server error"})
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "a page failed: RuntimeError" in caplog.text
    assert "in fail" in caplog.text
    assert written not in caplog.text


# -- Faust's own pages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", _FAUST_PAGES)
async def test_faust_s_own_pages_are_off(offline: MakeSettings, serve: Callable[..., Any], path: str) -> None:
    client = await serve(create_app(offline()))
    async with client.get(path) as answer:
        assert answer.status == 404


async def test_faust_s_own_pages_are_served_to_who_has_the_token(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path
) -> None:
    ours = settings(embedded_broker, partitions=_PARTITIONS, web_token=_TOKEN, web_faust_pages=True)
    with WorkerProcess(ours, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        for path in [*_FAUST_PAGES, "/"]:
            assert worker.get(path)[0] == 401, path
        changelog = Topics.of(ours).changelog
        assert [shown["name"] for shown in worker.get("/table/", **_ALLOWED)[1]] == ["feedback_windows"]
        assert worker.get("/performance/", **_ALLOWED)[1]["app"]["id"] == ours.app_id
        assert worker.get("/router/", **_ALLOWED)[1] == {worker.url: {changelog: [0, 1, 2]}}
        status, assignment = worker.get("/assignment/", **_ALLOWED)
        assert (status, assignment["actives"][changelog]) == (200, [0, 1, 2])
        assert "Sensor0" in worker.get("/", **_ALLOWED)[1]


# -- agents ----------------------------------------------------------------------------------------------------------


def test_any_agent_is_found_by_any_worker(embedded_broker: str, settings: MakeSettings, tmp_path: Path) -> None:
    quiet = {"partitions": _PARTITIONS, "batch_time_ms": 3_600_000, "idle_ms": 3_600_000, "store_items": False}
    first, second = (settings(embedded_broker, web_token=_TOKEN, **quiet) for _ in range(2))
    ensure_topics(first, Topics.of(first).specs())
    with (
        WorkerProcess(first, tmp_path / "first.log") as one,
        WorkerProcess(second, tmp_path / "second.log") as other,
    ):
        for worker in (one, other):
            worker.wait_until_ready()
        now = time.time_ns() // 1_000_000
        with FeedbackPublisher(first) as publisher:
            for number, agent in enumerate(_AGENTS):
                for again in range(number + 1):
                    publisher.publish(
                        {
                            "feedbackId": f"{number}-{again}",
                            "agentId": agent,
                            "userId": "user",
                            "rating": "neutral",
                            "timestamp": now,
                        }
                    )
        for worker in (one, other):
            for number, agent in enumerate(_AGENTS):
                body = until_counted(worker, agent, number + 1)
                assert (body["agentId"], body["partition"]) == (agent, partition_of(agent, _PARTITIONS))
                assert {window["agentId"] for window in body["open"]} == {agent}
        for worker in (one, other):
            assert worker.get("/feedback/agents/%00", **_ALLOWED)[1]["open"] == []
            assert worker.get("/feedback/agents/%FF", **_ALLOWED)[1]["open"] == []
            # As it is typed: a step up is an agent's name here, and no step.
            assert raw(worker, "/feedback/agents/..")["agentId"] == ".."
        # A request that is marked as passed on is answered by the owner alone.
        owners = [
            sum("open" in raw(worker, f"/feedback/agents/{quote(agent, safe='')}", forwarded=True) for agent in _AGENTS)
            for worker in (one, other)
        ]
        assert all(owners), "one worker has all partitions: nothing was passed on"
        assert sum(owners) == len(_AGENTS)


def until_counted(worker: WorkerProcess, agent: str, count: int) -> dict[str, Any]:
    """Return a worker's answer for *agent*, once it has as many events."""
    deadline = time.monotonic() + 60
    while True:
        status, body = worker.get(f"/feedback/agents/{quote(agent, safe='')}", **_ALLOWED)
        if status == 200 and sum(window["count"] for window in body["open"]) == count:
            answer: dict[str, Any] = body
            return answer
        assert time.monotonic() < deadline, (agent, status, body)
        time.sleep(0.05)


def raw(worker: WorkerProcess, path: str, *, forwarded: bool = False) -> dict[str, Any]:
    """Ask for *path* as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=10)
    try:
        connection.request("GET", path, headers=_ALLOWED | ({FORWARDED: "1"} if forwarded else {}))
        answer: dict[str, Any] = orjson.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer


@pytest.mark.parametrize(
    "url",
    [
        "https://worker:6066",
        "file:///etc/passwd",
        "http://worker:6066/elsewhere",
        "http://worker:6066?to=elsewhere",
        "http://user@worker:6066",
        "http://worker:6066\r\nX: y",
        "http:///",
        "worker:6066",
        "",
    ],
)
def test_a_request_is_passed_on_to_nothing_but_a_worker_s_address(url: str) -> None:
    assert owner_of({url: {"changelog": [0]}}, "changelog", 0) is None


@pytest.mark.parametrize(
    "url", ["http://worker-1:6066/", "http://10.0.0.1:6066", "http://[::1]:6066", "http://worker_1"]
)
def test_the_owner_is_found_by_topic_and_partition(url: str) -> None:
    metadata = {"http://other:1": {"changelog": [1], "else": [0]}, url: {"changelog": [0]}}
    assert owner_of(metadata, "changelog", 0) == url.rstrip("/")
    assert owner_of(metadata, "changelog", 2) is None


@pytest.mark.parametrize("answer", ["page", "redirect"])
async def test_what_another_service_answers_is_not_passed_back(
    offline: MakeSettings,
    serve: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
) -> None:
    """Its port may have been a worker's once. Nor does the token go where it redirects to."""
    heard: list[str] = []

    async def other(request: web.Request) -> web.Response:
        heard.append(request.path)
        if answer == "redirect" and request.path != "/there":
            raise web.HTTPFound("/there")
        return web.Response(text="<script>alert(1)</script>", content_type="text/html")

    service = web.Application()
    service.router.add_get("/{tail:.*}", other)
    somewhere = await serve(service)

    app = create_app(offline(web_token=_TOKEN))
    metadata = {str(somewhere.make_url("/")): {app.windows.changelog: list(range(8))}}
    monkeypatch.setattr(app.assignor, "tables_metadata", lambda: metadata)
    client = await serve(app)
    async with client.get("/feedback/agents/agent-1", headers=_ALLOWED) as answered:
        assert answered.status == 502
        assert "does not answer: it is no worker" in (await answered.json())["error"]
    assert heard == ["/feedback/agents/agent-1"]


# -- who can reach it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_no_token(offline: MakeSettings, host: str) -> None:
    assert open_to_others(offline(web_host=host)) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "worker-1", ""])
def test_others_should(offline: MakeSettings, host: str) -> None:
    assert open_to_others(offline(web_host=host)).startswith(f"FEEDBACK_WEB_HOST={host!r} and no FEEDBACK_WEB_TOKEN: ")
    assert open_to_others(offline(web_host=host, web_token=_TOKEN)) == ""


def test_a_worker_that_is_open_to_others_warns(embedded_broker: str, settings: MakeSettings, tmp_path: Path) -> None:
    ours = settings(embedded_broker, partitions=_PARTITIONS, web_host="0.0.0.0")
    with WorkerProcess(ours, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        assert worker.log.read_text().count("FEEDBACK_WEB_HOST='0.0.0.0' and no FEEDBACK_WEB_TOKEN: ") == 1
