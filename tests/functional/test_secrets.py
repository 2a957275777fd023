"""No secret is in a log, on a page, in what a command prints, in an error or in a ``repr``, in whatever form."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from pydantic import SecretStr, ValidationError

from feedback_app.admin import Admin
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.errors import SettingsError
from feedback_app.factory import create_app
from feedback_app.provisioning import open_database
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings, load_settings
from feedback_app.web.sessions import sessions_of
from tests.services.certificates import Authority
from tests.services.secure_database import PASSWORD, SecureDatabase
from tests.services.secure_kafka import PASSWORDS, USER, SecureKafka
from tests.services.workers import until

MakeSettings = Callable[..., Settings]

_TOKEN = "Töken/with+all=\"sorts'&%of"
_WRITTEN = "what a user wrote/+é"
_PAGES = ["/", "/health/live", "/health/ready", "/feedback/agents/agent-1", "/router/", "/router/topics", "/table/"]
_PAGES += ["/feedback/partitions", "/feedback/events", "/feedback/login", "/feedback/logout"]
_PAGES += ["/performance/", "/assignment/", "/graph/", "/table/feedback_windows/", "/router/nothing/", "/nothing"]
_WITHIN_S = 60.0


def forms(secret: str) -> dict[str, str]:
    """Return how a secret may appear, by the name of the form."""
    raw = secret.encode()
    found = {
        "plain": secret,
        "in a URL": quote(secret, safe=""),
        "in a query": quote_plus(secret),
        "in JSON": json.dumps(secret)[1:-1],
        "in JSON, as UTF-8": json.dumps(secret, ensure_ascii=False)[1:-1],
        "as a literal": repr(secret)[1:-1],
        "as bytes": repr(raw)[2:-1],
        "in hex": raw.hex(),
    }
    for before in ("", f"{USER}:", "writer:", f"\0{USER}\0", "Bearer "):
        # The last characters depend on what comes after them.
        text = base64.b64encode(before.encode() + raw).decode().rstrip("=")[:-1]
        start = (len(before) * 4 + 2) // 3
        found[f"in base64 after {before!r}"] = text[start:]
        found[f"in base64 for URLs after {before!r}"] = text[start:].replace("+", "-").replace("/", "_")
    return found


class Secrets:
    """Things that must not appear."""

    def __init__(self, **secrets: str) -> None:
        self._forms = [(name, form, text) for name, secret in secrets.items() for form, text in forms(secret).items()]

    def in_(self, text: str) -> list[str]:
        """Return which secrets are in *text*, and how."""
        return [f"{name}, {form}" for name, form, hidden in self._forms if hidden in text]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def database(authority: Authority) -> Iterator[SecureDatabase]:
    """A database of this module's own: it is killed."""
    with SecureDatabase(authority) as server:
        yield server


@pytest.fixture
def everything(secure_kafka: SecureKafka, database: SecureDatabase, settings: MakeSettings) -> Settings:
    """Settings with every secret that there is."""
    certificate = secure_kafka.with_certificate()
    connection = secure_kafka.with_password("PLAIN")
    return settings(
        connection.pop("broker_url"),
        **connection,
        broker_cert_file=certificate["broker_cert_file"],
        broker_key_file=certificate["broker_key_file"],
        mongodb_url=database.url,
        web_token=_TOKEN,
        web_faust_pages=True,
        partitions=2,
        batch_time_ms=1_000,
        idle_ms=1_000,
        grace_ms=0,
    )


def secrets_of(settings: Settings) -> Secrets:
    assert settings.broker_key_file is not None
    key = settings.broker_key_file.read_text().splitlines()
    return Secrets(
        broker_password=PASSWORDS["PLAIN"],
        mongodb_password=PASSWORD,
        mongodb_url=settings.mongodb_url.get_secret_value(),
        web_token=_TOKEN,
        key=max(key, key=len),
        written=_WRITTEN,
    )


def test_a_secret_is_found_in_every_form(authority: Authority) -> None:
    """Else the tests below would show nothing."""
    secrets = Secrets(secret=PASSWORD)
    raw = PASSWORD.encode()
    for text in (
        f"password={PASSWORD}",
        f"mongodb://writer:{quote(PASSWORD, safe='')}@host",
        json.dumps({"password": PASSWORD}),
        repr({"password": PASSWORD}),
        repr(b"\0me\0" + raw),
        raw.hex(" ").replace(" ", ""),
        base64.b64encode(raw).decode(),
        base64.b64encode(b"\0me\0" + raw).decode(),
        base64.b64encode(b"writer:" + raw + b"@host").decode(),
        base64.urlsafe_b64encode(b"Bearer " + raw).decode(),
    ):
        assert secrets.in_(f"something {text} more"), text
    assert secrets.in_("nothing at all") == []


class TalkativeWorker(WorkerProcess):
    """A worker that logs all that there is to be logged."""

    def __init__(self, settings: Settings, log: Path) -> None:
        super().__init__(settings, log)
        self._command[self._command.index("INFO")] = "DEBUG"

    def all_output(self) -> str:
        """Return all that it has logged and printed since it was started."""
        assert self._output is not None
        size = os.fstat(self._output.fileno()).st_size
        return self.log.read_text(errors="replace") + os.pread(self._output.fileno(), size, 0).decode(errors="replace")


def test_a_worker_tells_no_secret(everything: Settings, database: SecureDatabase, tmp_path: Path) -> None:
    """Through a start, work, a wrong token, a database that goes and comes back, and a stop."""
    secrets = secrets_of(everything)
    shown: list[str] = []
    with TalkativeWorker(everything, tmp_path / "worker.log") as worker:

        def look() -> None:
            for token in (_TOKEN, f"not-{_TOKEN}", ""):
                shown.extend(page(worker, path, token) for path in _PAGES)

        worker.wait_until_ready()
        look()
        assert page(worker, "/router/", _TOKEN).startswith("200 ")
        publish(everything, 0)
        until(lambda: stored(everything) == 5, _WITHIN_S)
        look()
        shown.append(page(worker, "/feedback/events", _TOKEN, [{_WRITTEN: _WRITTEN, "rating": _WRITTEN}, _WRITTEN]))
        assert shown[-1].startswith("422 ")
        shown.append(page(worker, "/feedback/events", _TOKEN, [{"comment": _WRITTEN}, _WRITTEN, event(-1)]))
        assert shown[-1].startswith("202 ")
        until(lambda: stored(everything) == 6, _WITHIN_S)
        shown.append(page(worker, "/feedback/login", "", {"token": _TOKEN}))
        assert shown[-1].startswith("204 ")
        shown.append(page(worker, "/feedback/login", "", {"token": f"not-{_TOKEN}"}))
        assert shown[-1].startswith("401 ")
        database.kill()
        publish(everything, 5)
        until(lambda: "waiting for the database" in page(worker, "/health/ready", ""), _WITHIN_S)
        look()
        database.start()
        until(lambda: stored(everything) == 11, _WITHIN_S)
        process = worker._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(_WITHIN_S) == 0
        output = worker.all_output()
    assert "DEBUG" in output
    assert "SaslHandShakeRequest" in output, "aiokafka has to be heard, for this to show something"
    assert secrets.in_(output) == []
    assert len(shown) == 3 * 3 * len(_PAGES) + 4
    assert secrets.in_("\n".join(shown)) == []


@pytest.mark.parametrize("command", ["agents", "tables", "models", "topics", "completion"])
def test_a_command_tells_no_secret(everything: Settings, command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "faust", "--debug", "-A", "feedback_app", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **dict(environment(everything))},
        timeout=_WITHIN_S,
    )
    assert result.stdout
    assert secrets_of(everything).in_(result.stdout) == []


def test_no_repr_tells_a_secret(everything: Settings) -> None:
    secrets = secrets_of(everything)
    app = create_app(everything)
    publisher = FeedbackPublisher(everything)
    publisher.close()
    conf = app.conf
    sessions = sessions_of(everything)
    assert sessions is not None
    sessions.begin()
    for what in (
        everything,
        vars(everything),
        everything.model_dump(),
        everything.model_copy(),
        app,
        vars(app),
        conf,
        vars(conf),
        conf.broker_credentials,
        app.sink,
        vars(app.sink),
        publisher,
        vars(publisher),
        sessions,
        vars(sessions),
        vars(Admin(everything)),
    ):
        for text in (repr(what), str(what)):
            assert secrets.in_(text) == []
    assert secrets.in_(everything.model_dump_json()) == []
    assert f"username={USER}" in repr(vars(conf)), "else the settings of Faust were not looked at"


@pytest.mark.parametrize(
    "wrong",
    [
        {"partitions": 0},
        {"broker_url": "nowhere"},
        {"broker_username": None},
        {"broker_password": 7},
        {"mongodb_url": f"mongodb://writer:{PASSWORD}@localhost"},
        {"mongodb_url": f"mongo://writer:{quote(PASSWORD)}@localhost"},
        {"web_token": ["list", _TOKEN]},
        {"broker_key_file": "/does/not/exist"},
    ],
)
def test_no_error_about_settings_tells_a_secret(everything: Settings, wrong: dict[str, object]) -> None:
    secrets = secrets_of(everything)
    given = {name: getattr(everything, name) for name in everything.model_fields_set} | wrong
    with pytest.raises(SettingsError) as raised:
        create_app(load_settings(**given, _env_file=None))
    build: Any = Settings
    with pytest.raises((SettingsError, ValidationError)) as directly:
        create_app(build(**given, _env_file=None))
    for text in (str(raised.value), repr(raised.value), str(directly.value), repr(directly.value)):
        assert secrets.in_(text) == []


def test_secrets_stay_secret_when_they_are_handed_on() -> None:
    """A copy keeps them hidden, and usable."""
    settings = load_settings(broker_password=PASSWORD, _env_file=None)
    copied = settings.model_copy(update={"partitions": 3})
    assert copied.broker_password == SecretStr(PASSWORD)
    assert Secrets(secret=PASSWORD).in_(repr(copied)) == []


def publish(settings: Settings, first: int) -> None:
    with FeedbackPublisher(settings) as publisher:
        for number in range(first, first + 5):
            publisher.publish(event(number))


def event(number: int) -> dict[str, Any]:
    return {
        "feedbackId": f"feedback-{number}",
        "agentId": f"agent-{number % 3}",
        "userId": "user",
        "rating": "positive",
        "comment": _WRITTEN,
        "timestamp": time.time_ns() // 1_000_000,
    }


def stored(settings: Settings) -> int:
    with open_database(settings) as database:
        counted = sum(int(document["count"]) for document in database["feedback_windows"].find())
        return min(counted, database["feedback"].count_documents({}))


def page(worker: WorkerProcess, path: str, token: str, body: object = None) -> str:
    """Return a page, with its headers; that for a POST where there is a *body*."""
    headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1")} if token else {}
    data = None if body is None else json.dumps(body).encode()
    headers |= {"Content-Type": "application/json"} if data else {}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(worker.url + path, data, headers), timeout=10)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return f"{answer.status} {answer.headers} {answer.read().decode(errors='replace')}"
