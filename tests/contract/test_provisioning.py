"""Topics are made and checked, and what can't be reached is told in one line, on both brokers."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it exports these without saying so
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from feedback_app.admin import Admin
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.errors import BrokerError, DatabaseError, TopicMismatch
from feedback_app.provisioning import check_database, ensure_topics, identify, inspect_topics, topic_ids
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import TOMBSTONES_KEPT_MS, Topics, TopicSpec
from feedback_app.verification.reading import TopicReader
from tests.services.workers import until

MakeSettings = Callable[..., Settings]
NO_DATABASE = "mongodb://127.0.0.1:1"


@pytest.fixture
def ours(broker_url: str, settings: MakeSettings) -> Settings:
    return settings(broker_url, mongodb_url=NO_DATABASE, partitions=3)


@pytest.fixture
def admin(ours: Settings) -> AdminClient:
    return AdminClient({"bootstrap.servers": ours.bootstrap_servers})


def test_missing_topics_are_made_as_specified_and_only_once(ours: Settings, admin: AdminClient) -> None:
    specs = list(Topics.of(ours).specs())
    assert [report.partitions for report in inspect_topics(ours, specs)] == [0] * len(specs)
    made = ensure_topics(ours, specs)
    assert [(report.name, report.partitions, report.created) for report in made] == [
        (spec.name, 3, True) for spec in specs
    ]
    assert not any(report.created for report in ensure_topics(ours, specs))
    assert not any(report.problem for report in inspect_topics(ours, specs))

    resources = [ConfigResource(ResourceType.TOPIC, spec.name) for spec in specs]
    for spec, future in zip(specs, admin.describe_configs(resources).values(), strict=True):
        found = future.result(10)
        assert {option: found[option].value for option in spec.config} == spec.config


def test_workers_that_start_together_do_not_disturb_each_other(ours: Settings) -> None:
    specs = list(Topics.of(ours).specs())
    with ThreadPoolExecutor(4) as pool:
        for reports in pool.map(lambda _: ensure_topics(ours, specs), range(4)):
            assert [report.partitions for report in reports] == [3] * len(specs)


def test_another_number_of_partitions_is_a_mismatch_and_nothing_is_made(ours: Settings) -> None:
    specs = list(Topics.of(ours).specs())
    ensure_topics(ours, specs[:1])
    others = list(Topics.of(ours.model_copy(update={"partitions": 5})).specs())
    with pytest.raises(TopicMismatch) as caught:
        ensure_topics(ours, others)
    assert caught.value.message == (
        f"topic {specs[0].name} has 3 partitions, configured are 5: set FEEDBACK_PARTITIONS=3 or use another "
        f"FEEDBACK_TOPIC_PREFIX"
    )
    assert [report.partitions for report in inspect_topics(ours, others)] == [3, 0, 0, 0, 0, 0]


def test_a_changelog_that_forgets_is_a_mismatch(ours: Settings, admin: AdminClient) -> None:
    changelog = list(Topics.of(ours).specs())[-1]
    topic = NewTopic(changelog.name, 3, 1, config={"cleanup.policy": "delete"})
    admin.create_topics([topic])[changelog.name].result(10)
    with pytest.raises(TopicMismatch, match=r"cleanup\.policy=delete, it must be compact"):
        ensure_topics(ours, [changelog])


def test_more_copies_than_brokers_is_told_with_the_settings_name(kafka: str, settings: MakeSettings) -> None:
    ours = settings(kafka, mongodb_url=NO_DATABASE, replication_factor=3)
    with pytest.raises(BrokerError, match="FEEDBACK_REPLICATION_FACTOR=3"):
        ensure_topics(ours, Topics.of(ours).specs())


def test_a_topic_that_is_made_anew_has_another_id(ours: Settings, admin: AdminClient) -> None:
    specs = list(Topics.of(ours).specs())[:2]
    names = [spec.name for spec in specs]
    ensure_topics(ours, specs)
    first = topic_ids(ours, names)
    assert topic_ids(ours, names) == first
    assert len(set(first.values())) == 2

    admin.delete_topics(names[:1])[names[0]].result(10)
    until(lambda: not inspect_topics(ours, specs)[0].partitions, 20)
    ensure_topics(ours, specs)
    second = topic_ids(ours, names)
    assert second[names[0]] != first[names[0]]
    assert second[names[1]] == first[names[1]]
    with pytest.raises(BrokerError, match="no topic nowhere"):
        topic_ids(ours, ["nowhere"])


def test_what_state_needs_to_know_of_its_topics(ours: Settings) -> None:
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    ids = topic_ids(ours, [topics.changelog, *topics.sources])
    found = identify(ours, topics)
    assert found.changelog == ids[topics.changelog]
    assert found.sources == {name: ids[name] for name in topics.sources}
    assert found.tombstones_kept_ms == TOMBSTONES_KEPT_MS


def test_the_changelogs_own_retention_of_tombstones_is_found(kafka: str, settings: MakeSettings) -> None:
    ours = settings(kafka, mongodb_url=NO_DATABASE)
    topics = Topics.of(ours)
    config = {"cleanup.policy": "compact", "delete.retention.ms": "1234"}
    Admin(ours).create([TopicSpec(topics.changelog, ours.partitions, config)])
    ensure_topics(ours, topics.specs())
    assert identify(ours, topics).tombstones_kept_ms == 1_234


def test_records_below_an_offset_are_deleted(kafka: str, settings: MakeSettings) -> None:
    ours = settings(kafka, mongodb_url=NO_DATABASE, partitions=2)
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    with FeedbackPublisher(ours) as publisher:
        for partition in (0, 0, 0, 1):
            publisher.publish_bytes(b"key", b"value", partition)
    admin = Admin(ours)
    admin.delete_below(topics.feedback, {0: 2})
    with TopicReader(ours) as reader:
        assert reader.ranges(topics.feedback) == {0: (2, 3), 1: (0, 1)}
    with pytest.raises(BrokerError, match=f"records of {topics.feedback} can't be deleted"):
        admin.delete_below(topics.feedback, {0: 9})


def test_a_broker_that_is_not_there_is_told_in_one_line(settings: MakeSettings) -> None:
    url = f"kafka://127.0.0.1:{free_port()}"
    ours = settings(url, mongodb_url=NO_DATABASE)
    started = time.monotonic()
    with pytest.raises(BrokerError) as caught:
        ensure_topics(ours, Topics.of(ours).specs())
    assert time.monotonic() - started < 15
    assert caught.value.message.startswith(f"FEEDBACK_BROKER_URL={url}: no answer within 10 s; is it up? (")
    assert "\n" not in caught.value.message


def test_a_broker_that_refuses_the_password_is_told_at_once_and_without_it(
    broker_url: str, settings: MakeSettings
) -> None:
    ours = settings(
        broker_url,
        mongodb_url=NO_DATABASE,
        broker_security="sasl_plaintext",
        broker_username="somebody",
        broker_password="open sesame",
    )
    started = time.monotonic()
    with pytest.raises(BrokerError, match="authentication failed; check FEEDBACK_BROKER_USERNAME") as caught:
        ensure_topics(ours, Topics.of(ours).specs())
    assert time.monotonic() - started < 5
    assert "sesame" not in caught.value.message


def test_a_database_that_answers_is_good(database: EmbeddedDatabase, settings: MakeSettings) -> None:
    check_database(settings("kafka://127.0.0.1:1", mongodb_url=database.url))


def test_a_database_that_is_not_there_is_told_without_the_password(settings: MakeSettings) -> None:
    address = f"127.0.0.1:{free_port()}"
    ours = settings("kafka://127.0.0.1:1", mongodb_url=f"mongodb://somebody:sesame@{address}/?authSource=admin")
    with pytest.raises(DatabaseError) as caught:
        check_database(ours)
    assert caught.value.message.startswith(f"FEEDBACK_MONGODB_URL=mongodb://{address}: no answer within 5 s; is it up?")
    assert "sesame" not in caught.value.message
    assert "somebody" not in caught.value.message


def test_a_database_that_refuses_the_password_says_so_without_it(
    database: EmbeddedDatabase, settings: MakeSettings
) -> None:
    url = database.url.replace("mongodb://", "mongodb://somebody:sesame@") + "/?authSource=admin"
    with pytest.raises(
        DatabaseError, match="authentication failed; check the user, the password and authSource"
    ) as caught:
        check_database(settings("kafka://127.0.0.1:1", mongodb_url=url))
    assert "sesame" not in caught.value.message


@pytest.mark.parametrize("password", ["open/sesame", "open@sesame", "open?sesame", "sesame%"])
def test_a_password_that_is_not_encoded_is_not_shown_either(password: str, settings: MakeSettings) -> None:
    ours = settings("kafka://127.0.0.1:1", mongodb_url=f"mongodb://somebody:{password}@localhost")
    with pytest.raises(DatabaseError, match="percent-encoded") as caught:
        check_database(ours)
    assert "sesame" not in caught.value.message
    assert "open" not in caught.value.message
