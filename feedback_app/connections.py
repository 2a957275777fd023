"""The settings, said in each client's own words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from confluent_kafka import KafkaError, KafkaException
from tenacity import Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, stop_all, wait_fixed

from feedback_app.errors import SettingsError
from feedback_app.settings import Settings

logger = logging.getLogger(__name__)

_Client = TypeVar("_Client")
_P = ParamSpec("_P")
_T = TypeVar("_T")

#: How long a broker that is up may take to answer.
ANSWER_S: Final = 10.0

_REFUSALS: Final = {
    KafkaError._AUTHENTICATION: "authentication failed; check FEEDBACK_BROKER_USERNAME, FEEDBACK_BROKER_PASSWORD and "
    "FEEDBACK_BROKER_SASL_MECHANISM",
    KafkaError._SSL: "the TLS connection failed; check FEEDBACK_BROKER_SECURITY, FEEDBACK_BROKER_CA_FILE, and that the "
    "broker's certificate is for the host that the URL names",
}
_CERTIFICATE_REFUSED: Final = (
    "the broker refuses the TLS connection; check FEEDBACK_BROKER_CERT_FILE and FEEDBACK_BROKER_KEY_FILE"
)

#: A leader, a coordinator or a connection is away, or not there yet: librdkafka goes on by itself. It does not call all
#: of them retriable.
_PASSING: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._TRANSPORT,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._ALL_BROKERS_DOWN,
    }
)


def passes(error: KafkaError) -> bool:
    """Say whether *error* goes away by itself.

    A topic that is unknown does not count: it may just have been made, but just as well be deleted.
    """
    return error.code() in _PASSING or error.retriable()


def _not_yet(error: BaseException) -> bool:
    # Asked for a while only, a topic may be unknown: the broker that answers may not have heard of it yet.
    return isinstance(error, KafkaException) and (
        passes(error.args[0]) or error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART
    )


_ASKING: Final = Retrying(
    retry=retry_if_exception(_not_yet),
    # Twice at least: the time of a process that was frozen meanwhile is over, however soon the broker answers.
    stop=stop_all(stop_after_delay(ANSWER_S), stop_after_attempt(2)),
    wait=wait_fixed(0.2),
    reraise=True,
)


def answered(question: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a question to the broker: asked again, for a while, when the answer is "not yet".

    Not tenacity's own decorator: what that returns leads back to itself, and so keeps the client that is asked until
    the garbage collector comes by.
    """
    return partial(_ASKING, question)


def _note(error: KafkaError) -> None:
    logger.debug("librdkafka: %s", error.str())


def refusal(error: KafkaError) -> str:
    """Say what to do about a broker that refuses us, or that we refuse; empty when *error* is something else.

    librdkafka tries these again for ever, and reports no more than a timeout in the end.
    """
    reason = _REFUSALS.get(error.code())
    # It comes after our part of the handshake, to librdkafka like any broken connection.
    if reason is None and "SSL alert number" in error.str():
        reason = _CERTIFICATE_REFUSED
    return f"{reason} ({error.str()})" if reason else ""


def open_client(kind: Callable[[dict[str, Any]], _Client], config: dict[str, Any]) -> _Client:
    """Make a client. It connects later, by itself.

    Raises:
        SettingsError: librdkafka does not take the configuration: a file is not what it should be, say.
    """
    try:
        return kind(config)
    except KafkaException as error:
        raise SettingsError(
            "FEEDBACK_BROKER_CA_FILE, FEEDBACK_BROKER_CERT_FILE, FEEDBACK_BROKER_KEY_FILE: not certificates and their "
            f"key in PEM format, without a pass phrase: {error.args[0].str()}"
        ) from None


def librdkafka_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the configuration of a confluent-kafka client; *more* uses ``_`` where librdkafka has ``.``."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.broker_security.value,
        "client.id": settings.app_id,
        # librdkafka would write up to twenty lines a second to stderr while a broker is away; what matters comes back
        # as errors.
        "log_level": 0,
        # Without this, a fatal error would be raised out of whatever callback runs next; every call reports it anyway.
        "error_cb": _note,
    }
    if settings.broker_security.uses_sasl and settings.broker_password:
        config["sasl.mechanism"] = settings.broker_sasl_mechanism.value
        config["sasl.username"] = settings.broker_username
        config["sasl.password"] = settings.broker_password.get_secret_value()
    for option, path in (
        ("ssl.ca.location", settings.broker_ca_file),
        ("ssl.certificate.location", settings.broker_cert_file),
        ("ssl.key.location", settings.broker_key_file),
    ):
        if path is not None:
            config[option] = str(path)
    config.update({name.replace("_", "."): value for name, value in more.items()})
    return config


def reader_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the configuration of a consumer that is told what to read: it never joins the group, whose name it has to
    ask for its offsets, and commits nothing. It tells where a partition ends."""
    return librdkafka_config(
        settings,
        group_id=settings.app_id,
        enable_auto_commit=False,
        enable_auto_offset_store=False,
        enable_partition_eof=True,
        **more,
    )


def learn_leader(ask: Callable[[str, float], object], topic: str) -> None:
    """Let a consumer find out who leads *topic* now: by itself, librdkafka would take a second after ``assign``.

    Args:
        ask: what the consumer has to ask the broker for a topic within some seconds.
    """
    try:
        ask(topic, ANSWER_S)
    except KafkaException as error:
        # It will find out by itself, or say later what is wrong.
        logger.debug("the leaders of %s are not known yet: %s", topic, error.args[0].str())
