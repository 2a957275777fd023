"""The settings, said in each client's own words."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from feedback_app.settings import Settings

logger = logging.getLogger(__name__)

_P = ParamSpec("_P")
_T = TypeVar("_T")

#: How long a broker that is up may take to answer.
ANSWER_S: Final = 10.0

#: Seen just after a topic was made, a group was first used, or a process was asleep: a leader, a coordinator or a
#: connection is not there yet. librdkafka does not call all of them retriable.
_NOT_YET: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
    }
)


def _passes(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and (error.args[0].code() in _NOT_YET or error.args[0].retriable())


_ASKING: Final = Retrying(
    retry=retry_if_exception(_passes), stop=stop_after_delay(ANSWER_S), wait=wait_fixed(0.2), reraise=True
)


def answered(question: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate a question to the broker: asked again, for a while, when the answer is "not yet".

    Not tenacity's own decorator: what that returns leads back to itself, and so keeps the client that is asked until
    the garbage collector comes by.
    """
    return partial(_ASKING, question)


def _note(error: KafkaError) -> None:
    logger.debug("librdkafka: %s", error.str())


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


def learn_leader(consumer: Consumer, topic: str) -> None:
    """Let *consumer* find out who leads *topic* now: by itself, librdkafka would take a second after ``assign``."""
    try:
        consumer.list_topics(topic, ANSWER_S)
    except KafkaException as error:
        # It will find out by itself, or say later what is wrong.
        logger.debug("the leaders of %s are not known yet: %s", topic, error.args[0].str())
