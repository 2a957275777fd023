"""Kafka's admin client, with answers in time and errors in our words."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports these without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
    TopicDescription,
)
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from feedback_app.connections import librdkafka_config, open_client, refusal
from feedback_app.errors import BrokerError
from feedback_app.settings import Settings
from feedback_app.topics import TopicSpec

logger = logging.getLogger(__name__)

_TIMEOUT_S = 10.0


class _Errors:
    """What a client has reported. Apart from :class:`Admin`, whose client must not lead back to it: nothing closes a
    client but its last reference, and a circle would keep its threads and connections for as long as it pleases the
    garbage collector. A worker asks at every rebalance."""

    def __init__(self) -> None:
        self.refusal = ""
        self.last = ""

    def note(self, error: KafkaError) -> None:
        """Keep *error*. Called by the client."""
        self.refusal = self.refusal or refusal(error)
        # It follows from what was said before, which says more. Alone, it says that there is a broker, which hangs up.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last = error.str()
        elif not self.last:
            self.last = "connections are closed at once; check FEEDBACK_BROKER_SECURITY"


class Admin:
    """An admin client that tells at once, and in our words, why a broker can't be talked to."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._errors = _Errors()
        # Errors are told by us, once; librdkafka itself would log each of its attempts.
        config = librdkafka_config(settings, reconnect_backoff_ms=200)
        config.update(error_cb=self._errors.note)
        self._client: AdminClient = open_client(AdminClient, config)

    def describe(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Return the descriptions of those topics that exist."""
        found: dict[str, TopicDescription] = {}
        futures = self._client.describe_topics(TopicCollection(list(names)), request_timeout=_TIMEOUT_S)
        for name, future in futures.items():
            try:
                found[name] = self._answer(future)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise self._failure(f"topic {name}", error) from error
        return found

    def describe_when_ready(self, names: Sequence[str]) -> dict[str, TopicDescription]:
        """Return the descriptions of topics just made, once all of them have leaders."""

        def unfinished(found: Mapping[str, TopicDescription]) -> bool:
            return any(
                name not in found or any(partition.leader is None for partition in found[name].partitions)
                for name in names
            )

        retrying = Retrying(
            retry=retry_if_result(unfinished),
            stop=stop_after_delay(_TIMEOUT_S),
            wait=wait_fixed(0.1),
            retry_error_callback=lambda state: {},
        )
        described: dict[str, TopicDescription] = retrying(self.describe, names)
        if not described and names:
            raise self._unanswered("the topics just created have no leader")
        return described

    def create(self, specs: Sequence[TopicSpec]) -> None:
        """Create topics; one that somebody else creates meanwhile is none of our concern."""
        copies = self._settings.replication_factor
        topics = [NewTopic(spec.name, spec.partitions, copies, config=spec.config) for spec in specs]
        for name, future in self._client.create_topics(topics, request_timeout=_TIMEOUT_S).items():
            try:
                self._answer(future)
            except KafkaException as error:
                code = error.args[0].code()
                if code == KafkaError.TOPIC_ALREADY_EXISTS:
                    continue
                if code == KafkaError.INVALID_REPLICATION_FACTOR:
                    raise BrokerError(
                        f"FEEDBACK_REPLICATION_FACTOR={copies}: topic {name} can't be created, the cluster has fewer "
                        f"brokers; set it to their number at most"
                    ) from error
                raise self._failure(f"topic {name} can't be created", error) from error

    def config(self, name: str) -> Mapping[str, Any]:
        """Return a topic's configuration, as far as the broker tells it."""
        resource = ConfigResource(ResourceType.TOPIC, name)
        (future,) = self._client.describe_configs([resource], request_timeout=_TIMEOUT_S).values()
        try:
            entries: Mapping[str, Any] = self._answer(future)
        except KafkaException as error:
            logger.warning("The configuration of topic %s can't be checked: %s", name, error.args[0].str())
            return {}
        return {option: entry.value for option, entry in entries.items()}

    def delete_below(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Delete the records of *topic* that stand below *offsets* (by partition).

        Raises:
            BrokerError: the broker does not answer, or refuses.
        """
        below = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        for future in self._client.delete_records(below, request_timeout=_TIMEOUT_S).values():
            try:
                self._answer(future)
            except KafkaException as error:
                raise self._failure(f"records of {topic} can't be deleted", error) from error

    def cluster_id(self) -> str:
        try:
            return str(self._answer(self._client.describe_cluster(request_timeout=_TIMEOUT_S)).cluster_id)
        except KafkaException as error:
            raise self._failure("the cluster can't be described", error) from error

    def _answer(self, future: Future[Any]) -> Any:
        """Wait for an answer, but no longer than it takes to know that none can come."""
        deadline = time.monotonic() + _TIMEOUT_S + 1
        while not future.done() and time.monotonic() < deadline:
            self._client.poll(0.05)
            if self._errors.refusal:
                raise BrokerError(f"FEEDBACK_BROKER_URL={self._settings.broker_url}: {self._errors.refusal}")
        if not future.done():
            raise self._unanswered(f"no answer within {_TIMEOUT_S:g} s")
        try:
            return future.result()
        except KafkaException as error:
            if error.args[0].code() in {KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN}:
                raise self._unanswered(f"no answer within {_TIMEOUT_S:g} s") from error
            raise

    def _unanswered(self, what: str) -> BrokerError:
        detail = f" ({self._errors.last})" if self._errors.last else ""
        return BrokerError(f"FEEDBACK_BROKER_URL={self._settings.broker_url}: {what}; is it up?{detail}")

    def _failure(self, what: str, error: KafkaException) -> BrokerError:
        return BrokerError(f"FEEDBACK_BROKER_URL={self._settings.broker_url}: {what}: {error.args[0].str()}")
