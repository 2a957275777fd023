"""A broker that asks who one is: with a password or a certificate everything works, and without one it is told why."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError
from cryptography.hazmat.primitives import serialization
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from feedback_app.admin import Admin
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.errors import BrokerError, PublishError, SettingsError
from feedback_app.factory import create_app
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.verification import verify
from tests.services.certificates import Authority
from tests.services.secure_kafka import PASSWORDS, SecureKafka

MakeSettings = Callable[..., Settings]

#: Far below the two minutes after which the publisher gives an event up, on a busy machine too.
_WITHIN_S = 60.0


@pytest.fixture
def ours(settings: MakeSettings) -> MakeSettings:
    """Return ``ours(connection, **overrides)``: settings for the secure broker."""

    def make(connection: dict[str, Any], **overrides: Any) -> Settings:
        url = connection.pop("broker_url")
        return settings(url, **{"partitions": 3} | connection | overrides)

    return make


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the broker does not know."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.mark.parametrize("how", [*PASSWORDS, "certificate"])
def test_a_worker_counts(secure_kafka: SecureKafka, ours: MakeSettings, tmp_path: Path, how: str) -> None:
    """Both of the worker's Kafka clients are let in: the group is joined with one, all records go by the other."""
    connection = secure_kafka.with_password(how) if how in PASSWORDS else secure_kafka.with_certificate()
    wanted = ours(
        connection,
        batch_time_ms=2_000,
        grace_ms=1_000,
        idle_ms=1_500,
        retention_ms=15_000,
    )
    with WorkerProcess(wanted, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        traffic = Traffic()
        plan = scenario(wanted, seed=7, agents=10, late_share=0.02, invalid_share=0.02)
        send(wanted, plan, spread(300, 30), traffic, lambda sent: None)
        verdict = verify(wanted, 60, until_closed=True, report=worker.watched(lambda reason: None))
    assert verdict.verified, verdict
    assert (verdict.input, verdict.counted) == (300, traffic.counted)
    assert verdict.documents > 0


def refusals() -> list[Any]:
    """Return what is wrong (a function of the broker and of a stranger), and what is said about it."""
    password = "authentication failed; check FEEDBACK_BROKER_USERNAME, FEEDBACK_BROKER_PASSWORD and FEEDBACK_BROKER_S"
    tls = "the TLS connection failed; check FEEDBACK_BROKER_SECURITY, FEEDBACK_BROKER_CA_FILE, and that the broker's c"
    certificate = "the broker refuses the TLS connection; check FEEDBACK_BROKER_CERT_FILE and FEEDBACK_BROKER_KEY_FILE"

    def strange(kafka: SecureKafka, stranger: Authority) -> dict[str, Any]:
        client = stranger.issue("client")
        return kafka.with_certificate(broker_cert_file=client.cert_file, broker_key_file=client.key_file)

    return [
        pytest.param(
            lambda kafka, _: kafka.with_password(broker_password="not-" + PASSWORDS["SCRAM-SHA-512"]),
            password,
            id="wrong password",
        ),
        pytest.param(lambda kafka, _: kafka.with_password(broker_username="nobody"), password, id="unknown user"),
        pytest.param(lambda kafka, _: kafka.with_password(broker_sasl_mechanism="PLAIN"), password, id="mechanism"),
        pytest.param(lambda kafka, stranger: kafka.with_password(broker_ca_file=stranger.ca_file), tls, id="wrong CA"),
        pytest.param(lambda kafka, _: kafka.with_password(host="127.0.0.1"), tls, id="wrong host"),
        pytest.param(
            lambda kafka, _: kafka.with_certificate(broker_cert_file=None, broker_key_file=None),
            certificate,
            id="no certificate",
        ),
        pytest.param(strange, certificate, id="strange certificate"),
    ]


@pytest.mark.parametrize(("wrong", "complaint"), refusals())
def test_a_worker_says_in_one_line_why_it_is_refused(
    secure_kafka: SecureKafka,
    ours: MakeSettings,
    stranger: Authority,
    wrong: Callable[..., dict[str, Any]],
    complaint: str,
) -> None:
    refused(ours(wrong(secure_kafka, stranger)), complaint, "worker", "--loglevel", "INFO")


@pytest.mark.parametrize("command", [("simulate", "--events", "10"), ("topics", "--check"), ("verify",)])
@pytest.mark.parametrize(("wrong", "complaint"), [refusals()[0], refusals()[-1]])
def test_a_command_says_in_one_line_why_it_is_refused(
    secure_kafka: SecureKafka,
    ours: MakeSettings,
    stranger: Authority,
    wrong: Callable[..., dict[str, Any]],
    complaint: str,
    command: tuple[str, ...],
) -> None:
    refused(ours(wrong(secure_kafka, stranger)), complaint, *command)


@pytest.mark.parametrize(("wrong", "complaint"), refusals())
def test_the_publisher_says_why_it_is_refused(
    secure_kafka: SecureKafka,
    ours: MakeSettings,
    stranger: Authority,
    wrong: Callable[..., dict[str, Any]],
    complaint: str,
) -> None:
    """Within seconds, and to whoever goes on publishing, too."""
    wanted = ours(wrong(secure_kafka, stranger))
    publisher = FeedbackPublisher(wanted)
    publisher.publish_bytes(b"key", b"value")
    started = time.monotonic()
    with pytest.raises(PublishError) as flushed:
        publisher.flush(60)
    with pytest.raises(PublishError) as published:
        publisher.publish_bytes(b"key", b"value")
    with pytest.raises(PublishError) as closed:
        publisher.close(60)
    assert time.monotonic() - started < _WITHIN_S
    said = f"FEEDBACK_BROKER_URL={wanted.broker_url}: {complaint}"
    assert flushed.value.message.startswith(f"1 event not delivered: 1 still unanswered: {said}")
    assert published.value.message.startswith(f"not sent: {said}")
    assert closed.value.message.startswith(f"1 event not delivered: 1 still unanswered: {said}")
    for raised in (flushed, published, closed):
        assert "\n" not in raised.value.message
        no_secret_in(raised.value.message)


def test_a_publisher_goes_on_once_it_is_not_refused_any_more(secure_kafka: SecureKafka, ours: MakeSettings) -> None:
    """The refusal may have come from one broker of several, or while the password was being changed."""
    wanted = ours(secure_kafka.with_password())
    ensure_topics(wanted, Topics.of(wanted).specs())
    with FeedbackPublisher(wanted) as publisher:
        publisher._refusal = "authentication failed"
        publisher.publish_bytes(b"key", b"value")
        publisher.flush()
        assert publisher._refusal == ""


@pytest.mark.parametrize("how", ["password", "certificate"])
async def test_the_group_s_client_checks_the_broker_s_name_too(
    secure_kafka: SecureKafka, ours: MakeSettings, how: str
) -> None:
    """The preflight checks it with librdkafka; aiokafka by itself is no less strict."""
    connect = getattr(secure_kafka, f"with_{how}")
    await connect_to(ours(connect()))
    with pytest.raises(KafkaConnectionError):
        await connect_to(ours(connect(host="127.0.0.1")))
    with pytest.raises(BrokerError, match="the TLS connection failed"):
        Admin(ours(connect(host="127.0.0.1"))).cluster_id()


async def connect_to(settings: Settings) -> None:
    """Connect as Faust does, with what the application tells it."""
    auth = credentials_to_aiokafka_auth(create_app(settings).conf.broker_credentials)
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers, **auth)
    try:
        await client.bootstrap()
    finally:
        await client.close()


def test_a_broker_that_expects_tls_is_told_from_one_that_is_away(secure_kafka: SecureKafka, ours: MakeSettings) -> None:
    with pytest.raises(BrokerError, match="connections are closed at once; check FEEDBACK_BROKER_SECURITY"):
        Admin(ours(secure_kafka.with_password(broker_security="plaintext"))).cluster_id()


@pytest.mark.parametrize("field", ["broker_ca_file", "broker_cert_file", "broker_key_file"])
def test_a_file_that_holds_something_else_is_told_by_every_client(
    settings: MakeSettings, stranger: Authority, tmp_path: Path, field: str
) -> None:
    client = stranger.issue("client")
    files = {
        "broker_ca_file": stranger.ca_file,
        "broker_cert_file": client.cert_file,
        "broker_key_file": client.key_file,
    }
    (tmp_path / "pem").write_text("hardly")
    files[field] = tmp_path / "pem"
    tells_every_client(settings("kafka://localhost", broker_security="ssl", mongodb_url="mongodb://localhost", **files))


def test_a_key_with_a_pass_phrase_is_refused_and_the_pass_phrase_not_asked_for(
    settings: MakeSettings, stranger: Authority, tmp_path: Path
) -> None:
    client = stranger.issue("client")
    key = serialization.load_pem_private_key(client.key_file.read_bytes(), None)
    (tmp_path / "locked").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    tells_every_client(
        settings(
            "kafka://localhost",
            broker_security="ssl",
            mongodb_url="mongodb://localhost",
            broker_cert_file=client.cert_file,
            broker_key_file=tmp_path / "locked",
        )
    )


def tells_every_client(settings: Settings) -> None:
    clients: list[Callable[[Settings], object]] = [create_app, Admin, FeedbackPublisher]
    for client in clients:
        with pytest.raises(SettingsError, match=r"FEEDBACK_BROKER_C(A|ERT)_FILE.*PEM format") as raised:
            client(settings)
        assert "\n" not in raised.value.message


def refused(settings: Settings, complaint: str, *command: str) -> None:
    """Run a command that fails: what it writes ends with the reason, and holds neither a trace nor a secret."""
    result = subprocess.run(
        [sys.executable, "-m", "faust", "-A", "feedback_app", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, **dict(environment(settings))},
        timeout=_WITHIN_S,
    )
    assert "Traceback" not in result.stdout, result.stdout
    assert '  File "' not in result.stdout, result.stdout
    no_secret_in(result.stdout)
    reason = "Not decided" if command[0] == "verify" else "Error"
    last = result.stdout.rstrip("\n").rpartition("\n")[2]
    assert last.startswith(f"{reason}: FEEDBACK_BROKER_URL={settings.broker_url}: {complaint}"), result.stdout
    assert result.returncode == (2 if command[0] == "verify" else 1)


def no_secret_in(text: str) -> None:
    for password in PASSWORDS.values():
        assert password not in text
        assert quote(password, safe="") not in text
    assert "PRIVATE KEY" not in text
