"""Services and settings for all tests.

A service is started once a session, when a test first asks for it. Tests stay apart by the names of their topics,
groups and databases, which :func:`settings` makes up. A service that can't run here skips the test, or fails it where
``REQUIRE_SERVICES=1`` is set, as in CI.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser

from feedback_app.embedded.broker import EmbeddedBroker
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import PREFIX, Settings, load_settings
from feedback_app.topics import Topics
from tests.services import browser, redis
from tests.services.browser import Tabs
from tests.services.compiled import is_installed
from tests.services.kafka import ApacheKafka, why_unavailable
from tests.services.secure_kafka import SecureKafka
from tests.services.workers import StartWorker

MakeSettings = Callable[..., Settings]

_KAFKA_FIXTURES = {"kafka", "own_kafka", "secure_kafka"}
_FAILED = pytest.StashKey[bool]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need a real Kafka or a browser: ``-m "not kafka and not browser"`` leaves them out."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if _KAFKA_FIXTURES & fixtures:
            item.add_marker(pytest.mark.kafka)
        if "chromium" in fixtures:
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let :func:`start_worker` know what became of the test."""
    report = yield
    item.stash[_FAILED] = report.failed
    return report


def pytest_collection_finish(session: pytest.Session) -> None:
    """Download Kafka before the first test: no test's timeout should have to cover that."""
    if not session.config.option.collectonly and any(item.get_closest_marker("kafka") for item in session.items):
        why_unavailable()


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """The url of an Apache Kafka, shared by all tests: never stop it."""
    _require_kafka()
    with ApacheKafka() as broker:
        yield broker.url


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[ApacheKafka]:
    """An Apache Kafka for this test alone, to be killed and restarted at will. Its start takes some ten seconds."""
    _require_kafka()
    with ApacheKafka(tmp_path / "kafka") as broker:
        yield broker
        broker.kill()


@pytest.fixture(scope="session")
def secure_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """An Apache Kafka that asks who one is, shared by all tests: never stop it."""
    _require_kafka()
    with SecureKafka(tmp_path_factory.mktemp("secure-kafka")) as broker:
        yield broker
        broker.kill()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. For modules without tests that are coroutines only: its event loop would be in their way."""
    _require(browser.why_unavailable())
    with browser.chromium() as opened:
        yield opened


@pytest.fixture
def tabs(chromium: Browser) -> Iterator[Tabs]:
    """Pages in a browser; when the test ends, nothing may have gone wrong in any of them."""
    opened = Tabs(chromium)
    yield opened
    opened.close()
    assert opened.wrong == []


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[str]:
    """The url of an embedded broker, shared by all tests: never stop it."""
    with EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture(params=["embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def broker_url(request: pytest.FixtureRequest) -> str:
    """The url of the embedded and of the real broker, one after the other: for what must hold on both."""
    url: str = request.getfixturevalue("kafka" if request.param == "kafka" else "embedded_broker")
    return url


@pytest.fixture(scope="session")
def database() -> Iterator[EmbeddedDatabase]:
    """An embedded database that accepts fail points, shared by all tests: never stop it, and disarm what you arm."""
    with EmbeddedDatabase(enable_test_commands=True) as server:
        yield server


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Settings]:
    """Return ``settings(broker_url, **overrides)``: settings that share nothing with any other test's.

    Each call uses the same topics, group and database: several workers of one application. *overrides* are by field
    name. The database is the shared one, unless ``mongodb_url`` is given; ``data_dir`` and ``web_port`` are new for
    each call, unless given. Nothing is read from the environment or from ``.env``.
    """
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    unique = f"t{uuid.uuid4().hex[:12]}"

    def make(broker_url: str, **overrides: Any) -> Settings:
        if "mongodb_url" not in overrides:
            overrides["mongodb_url"] = request.getfixturevalue("database").url
        defaults: dict[str, Any] = {
            "broker_url": broker_url,
            "app_id": unique,
            "topic_prefix": f"{unique}-",
            "mongodb_database": unique,
            "data_dir": tmp_path / f"data-{uuid.uuid4().hex[:8]}",
            "web_port": free_port(),
            "_env_file": None,
        }
        return load_settings(**(defaults | overrides))

    return make


@pytest.fixture
def start_worker(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartWorker]:
    """Return a function that starts a worker and waits until it is ready; all end with the test. When that has failed,
    they tell first how they are."""
    workers: list[WorkerProcess] = []
    with ExitStack() as stack:

        def start(settings: Settings) -> WorkerProcess:
            ensure_topics(settings, Topics.of(settings).specs())
            worker = stack.enter_context(WorkerProcess(settings, tmp_path / f"worker-{settings.web_port}.log"))
            workers.append(worker)
            worker.wait_until_ready()
            return worker

        yield start
        if request.node.stash[_FAILED]:
            for worker in workers:
                print(f"{worker.url}, running: {worker.running}:", *worker.get("/feedback/partitions"))
                print(worker.end_of_log())


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The url of a Redis, shared by all tests: what they find there is others'."""
    _require(redis.why_unavailable())
    with redis.RedisServer() as server:
        yield server.url


@pytest.fixture
def native() -> ModuleType:
    """The compiled part of the application."""
    if not is_installed():
        _require("feedback_native is not installed: make install builds it where there is a Rust")
    return importlib.import_module("feedback_native")


def _require_kafka() -> None:
    _require(why_unavailable())


def _require(reason: str) -> None:
    if not reason:
        return
    if os.environ.get("REQUIRE_SERVICES") == "1":
        pytest.fail(f"REQUIRE_SERVICES=1, but {reason}", pytrace=False)
    pytest.skip(reason)
