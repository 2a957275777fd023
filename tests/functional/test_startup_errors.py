"""What keeps a worker from starting ends it, with an exit code and one line that says what to do: no stack trace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import pymongo
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import SecretStr

from feedback_app.connections import librdkafka_config
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.provisioning import check_database, ensure_topics, inspect_topics, open_database
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.verification import verify
from feedback_app.verification.reading import TopicReader
from tests.services.certificates import Authority
from tests.services.secure_database import PASSWORD, SecureDatabase

MakeSettings = Callable[..., Settings]

_SECRET = "open-sesame"


@pytest.fixture
def ours(embedded_broker: str, settings: MakeSettings, tmp_path: Path) -> Settings:
    return settings(embedded_broker, partitions=3, data_dir=tmp_path / "data")


def refused(settings: Settings, more: Mapping[str, object] | None = None) -> tuple[int, str]:
    """Start a worker that can't run; return its exit code and the line that says why."""
    env = {**os.environ, **dict(environment(settings)), **{name: str(value) for name, value in (more or {}).items()}}
    command = [sys.executable, "-m", "faust", "-A", "feedback_app", "worker", "--loglevel", "INFO"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    output = result.stdout + result.stderr
    assert "Traceback" not in output, output
    assert '  File "' not in output, output
    for secret in (_SECRET, PASSWORD, quote(PASSWORD, safe="")):
        assert secret not in output
    line = result.stderr.rstrip("\n").rpartition("\n")[2]
    assert line.startswith("Error: "), output
    return result.returncode, line.removeprefix("Error: ")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("FEEDBACK_BATCH_SIZE", "0", "FEEDBACK_BATCH_SIZE='0': input should be greater than 0"),
        ("FEEDBACK_BATCHING_MODE", "x", "FEEDBACK_BATCHING_MODE='x': input should be 'agent', 'global' or 'hybrid'"),
        (
            "FEEDBACK_MONGODB_URL",
            f"mysql://me:{_SECRET}@db",
            "FEEDBACK_MONGODB_URL: must look like mongodb://host:port",
        ),
    ],
)
def test_a_wrong_setting(ours: Settings, name: str, value: str, complaint: str) -> None:
    code, line = refused(ours, {name: value})
    assert code == 2
    assert line.startswith(complaint)


def test_a_certificate_that_is_none(ours: Settings, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("certainly")
    code, line = refused(ours, {"FEEDBACK_BROKER_SECURITY": "ssl", "FEEDBACK_BROKER_CA_FILE": file})
    assert code == 2
    assert line.startswith("FEEDBACK_BROKER_CA_FILE: no certificates in PEM format")


def test_a_broker_that_is_not_there(ours: Settings) -> None:
    url = f"kafka://127.0.0.1:{free_port()}"
    code, line = refused(ours, {"FEEDBACK_BROKER_URL": url})
    assert code == 1
    assert line.startswith(f"FEEDBACK_BROKER_URL={url}: no answer within 10 s; is it up?")


def test_a_database_that_is_not_there(ours: Settings) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, line = refused(ours, {"FEEDBACK_MONGODB_URL": f"mongodb://me:{_SECRET}@{address}/?authSource=admin"})
    assert code == 1
    assert line.startswith(f"FEEDBACK_MONGODB_URL=mongodb://{address}: no answer within 5 s; is it up?")


class GuardedDatabase(EmbeddedDatabase):
    """A database that asks for a password; there is one user, who is called ``me``."""

    def start(self) -> None:
        super().start()
        with pymongo.MongoClient[dict[str, object]](self.url) as client:
            roles = [{"role": "readWriteAnyDatabase", "db": "admin"}]
            client.admin.command("createUser", "me", pwd=_SECRET, roles=roles)
        self.stop()
        self._command.append("--auth")
        super().start()


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """The address of a database that asks for a password."""
    with GuardedDatabase() as database:
        yield f"127.0.0.1:{database.port}"


@pytest.mark.parametrize(
    ("user", "complaint"),
    [
        (f"me:not-{_SECRET}@", "authentication failed; check the user, the password and authSource in the URL"),
        ("", "not allowed in database {0}; the URL needs a user with readWrite on it"),
    ],
)
def test_a_database_that_refuses(ours: Settings, guarded: str, user: str, complaint: str) -> None:
    code, line = refused(ours, {"FEEDBACK_MONGODB_URL": f"mongodb://{user}{guarded}/?authSource=admin"})
    assert code == 1
    assert line == f"FEEDBACK_MONGODB_URL=mongodb://{guarded}: {complaint.format(ours.mongodb_database)}"


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureDatabase]:
    """A database that speaks TLS and asks for a password."""
    with SecureDatabase(Authority(tmp_path_factory.mktemp("authority"))) as database:
        yield database


def test_a_database_whose_certificate_somebody_else_has_signed(
    ours: Settings, secure: SecureDatabase, tmp_path: Path
) -> None:
    code, line = refused(ours, {"FEEDBACK_MONGODB_URL": secure.url_of("writer", authority=Authority(tmp_path / "ca"))})
    assert code == 1
    assert line.startswith(
        f"FEEDBACK_MONGODB_URL=mongodb://127.0.0.1:{secure.port}: the TLS connection failed; check tls, tlsCAFile and "
        "tlsCertificateKeyFile in the URL, and that the server's certificate is for its host"
    )


def test_a_database_over_tls_that_is_told_a_wrong_password(ours: Settings, secure: SecureDatabase) -> None:
    code, line = refused(ours, {"FEEDBACK_MONGODB_URL": secure.url_of("writer", f"not-{PASSWORD}")})
    assert code == 1
    assert line.endswith(": authentication failed; check the user, the password and authSource in the URL")


def test_a_file_in_the_database_url_that_is_not_there(ours: Settings, secure: SecureDatabase) -> None:
    code, line = refused(ours, {"FEEDBACK_MONGODB_URL": secure.url.replace("ca.pem", "other.pem")})
    assert code == 2
    assert line == "FEEDBACK_MONGODB_URL: tlsCAFile or tlsCertificateKeyFile: No such file or directory"


@pytest.mark.parametrize("items", [True, False])
def test_a_database_that_may_only_be_read(ours: Settings, secure: SecureDatabase, items: bool) -> None:
    """Nothing could ever be stored."""
    code, line = refused(
        ours, {"FEEDBACK_MONGODB_URL": secure.url_of("reader"), "FEEDBACK_STORE_ITEMS": str(items).lower()}
    )
    assert code == 1
    assert line == (
        f"FEEDBACK_MONGODB_URL=mongodb://127.0.0.1:{secure.port}: not allowed in database {ours.mongodb_database}; the "
        "URL needs a user with readWrite on it"
    )


def test_checking_the_database_leaves_no_document_behind(ours: Settings, secure: SecureDatabase) -> None:
    there = ours.model_copy(update={"mongodb_url": SecretStr(secure.url)})
    with open_database(there) as database:
        database["feedback"].insert_one({"_id": "feedback-1"})
        check_database(there)
        check_database(there)
        assert list(database["feedback"].find()) == [{"_id": "feedback-1"}]
        assert database["feedback_windows"].count_documents({}) == 0


def test_a_worker_stores_over_tls_with_a_password(ours: Settings, secure: SecureDatabase, tmp_path: Path) -> None:
    there = ours.model_copy(update={"mongodb_url": SecretStr(secure.url), "batch_time_ms": 1_000, "idle_ms": 1_000})
    with WorkerProcess(there, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        send(there, scenario(there, seed=1, agents=5, late_share=0, invalid_share=0), spread(50, 5), Traffic(), print)
        verdict = verify(there, 60, until_closed=True, report=worker.watched(lambda reason: None))
    assert verdict.verified, verdict
    assert (verdict.counted, verdict.documents > 0) == (50, True)
    with open_database(there) as database:
        assert database["feedback"].count_documents({}) == 50


def test_topics_with_another_number_of_partitions(ours: Settings) -> None:
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    code, line = refused(ours, {"FEEDBACK_PARTITIONS": 4})
    assert code == 1
    assert line == (
        f"topic {topics.feedback} has 3 partitions, configured are 4: set FEEDBACK_PARTITIONS=3 or use another "
        "FEEDBACK_TOPIC_PREFIX"
    )


def test_a_data_dir_that_cannot_be_made(ours: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    data_dir = tmp_path / "file" / "data"
    code, line = refused(ours, {"FEEDBACK_DATA_DIR": data_dir})
    assert code == 2
    assert line.startswith(f"FEEDBACK_DATA_DIR='{data_dir}': can't be used: Not a directory")
    assert line.endswith("it must be a folder that this user may write to")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_dir_that_is_not_writable(ours: Settings, tmp_path: Path) -> None:
    data_dir = tmp_path / "readonly"
    data_dir.mkdir(mode=0o555)
    code, line = refused(ours, {"FEEDBACK_DATA_DIR": data_dir})
    assert code == 2
    assert line.startswith(f"FEEDBACK_DATA_DIR='{data_dir}': can't be used: Permission denied")


def test_a_data_dir_that_another_worker_uses(ours: Settings, tmp_path: Path) -> None:
    """The first one is not disturbed: the second never joins the group."""
    with WorkerProcess(ours, tmp_path / "worker.log") as first:
        first.wait_until_ready()
        code, line = refused(ours, {"FEEDBACK_WEB_PORT": free_port()})
        assert code == 2
        assert line == (
            f"FEEDBACK_DATA_DIR='{ours.data_dir}': another worker is using it; each worker needs one of its own"
        )
        assert first.log.read_text().count("partition 0 is taken over") == 1


def test_a_web_port_in_use(ours: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, line = refused(ours, {"FEEDBACK_WEB_PORT": port})
    assert code == 2
    assert line == (
        f"FEEDBACK_WEB_HOST='127.0.0.1', FEEDBACK_WEB_PORT={port}: can't listen there: address already in use; use "
        "another port or host"
    )


def test_a_web_host_that_is_not_ours(ours: Settings) -> None:
    code, line = refused(ours, {"FEEDBACK_WEB_HOST": "203.0.113.7"})  # reserved for documentation: nobody's address
    assert code == 2
    assert line.startswith("FEEDBACK_WEB_HOST='203.0.113.7', FEEDBACK_WEB_PORT=")


def test_a_group_that_is_ahead_of_the_state(ours: Settings) -> None:
    """The group has read something, and there is no state: both the data dir and the changelog are lost."""
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    with FeedbackPublisher(ours) as publisher:
        for partition in range(ours.partitions):
            for _ in range(3):
                publisher.publish_bytes(None, b"anything", partition)
    commit(ours, [TopicPartition(topics.feedback, partition, 2) for partition in range(ours.partitions)])

    code, line = refused(ours)
    assert code == 1
    assert f"the group '{ours.app_id}' has committed offset 2, but the state says nothing" in line
    assert topics.changelog in line
    assert line.endswith("start afresh with a new FEEDBACK_APP_ID.")


def test_a_changelog_that_was_deleted(ours: Settings, tmp_path: Path) -> None:
    """What is in the data dir belongs to a changelog that is gone, so it does not count either."""
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    with FeedbackPublisher(ours) as publisher:
        for partition in range(ours.partitions):
            publisher.publish_bytes(None, b"anything", partition)
    with WorkerProcess(ours, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        with TopicReader(ours) as reader:
            deadline = time.monotonic() + 30
            while reader.group_offsets(topics.feedback) != dict.fromkeys(range(ours.partitions), 1):
                assert time.monotonic() < deadline
                time.sleep(0.05)
    admin = AdminClient(librdkafka_config(ours))
    admin.delete_topics([topics.changelog])[topics.changelog].result(10)

    code, line = refused(ours)
    assert code == 1
    assert "has committed offset 1, but the state says nothing" in line
    assert topics.changelog in line


def test_missing_topics_are_made_with_the_configured_partitions(ours: Settings, tmp_path: Path) -> None:
    specs = list(Topics.of(ours).specs())
    assert {report.partitions for report in inspect_topics(ours, specs)} == {0}
    with WorkerProcess(ours, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
    assert {report.partitions for report in inspect_topics(ours, specs)} == {3}


def commit(settings: Settings, offsets: list[TopicPartition]) -> None:
    """Set the group's offsets."""
    consumer = Consumer(librdkafka_config(settings) | {"group.id": settings.app_id})
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    finally:
        consumer.close()
