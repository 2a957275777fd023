"""The settings, said in each client's own words."""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from tenacity import retry, retry_if_exception, stop_after_delay, wait_fixed

from feedback_app.settings import Settings

#: How long a broker that is up may take to answer.
ANSWER_S: Final = 10.0

#: Seen just after a topic was made or a group was first used: its leader, or coordinator, is not known or ready yet.
#: librdkafka does not call all of them retriable.
_NOT_YET: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.NOT_COORDINATOR,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    }
)


def _passes(error: BaseException) -> bool:
    return isinstance(error, KafkaException) and (error.args[0].code() in _NOT_YET or error.args[0].retriable())


#: Decorates a question to the broker: asked again, for a while, when the answer is "not yet".
answered = retry(retry=retry_if_exception(_passes), stop=stop_after_delay(ANSWER_S), wait=wait_fixed(0.2), reraise=True)


def librdkafka_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the configuration of a confluent-kafka client; *more* uses ``_`` where librdkafka has ``.``."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.broker_security.value,
        "client.id": settings.app_id,
        # librdkafka would write up to twenty lines a second to stderr while a broker is away; what matters comes back
        # as errors.
        "log_level": 0,
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
