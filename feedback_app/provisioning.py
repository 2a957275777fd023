"""What must be there before the worker joins its group: topics that fit the settings, and a database that lets us in.

Everything here blocks, answers within some seconds, and fails with one line that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pymongo
from confluent_kafka import Uuid
from pymongo.database import Database
from pymongo.errors import ConfigurationError, InvalidURI, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from feedback_app.admin import Admin
from feedback_app.errors import BrokerError, DatabaseError, TopicMismatch
from feedback_app.settings import Settings
from feedback_app.topics import TOMBSTONES_KEPT_MS, Topics, TopicSpec

WINDOWS_COLLECTION = "feedback_windows"
ITEMS_COLLECTION = "feedback"

_DATABASE_TIMEOUT_S = 5.0
_NO_TOPIC_ID = str(Uuid(0, 0))
_MONGODB_AUTHENTICATION_FAILED = 18
_MONGODB_UNAUTHORIZED = 13


@dataclass(frozen=True, slots=True)
class TopicReport:
    """A topic as it is, compared with how it should be.

    Attributes:
        partitions: how many it has; 0 where there is no such topic.
        created: whether :func:`ensure_topics` has just made it.
        problem: what is wrong with it and what to do, in one line; empty where nothing is.
    """

    name: str
    partitions: int
    created: bool = False
    problem: str = ""


def inspect_topics(settings: Settings, specs: Iterable[TopicSpec]) -> list[TopicReport]:
    """Compare the topics with *specs*, and change nothing.

    Raises:
        BrokerError: the broker can't be reached, or refuses us.
    """
    return _inspect(Admin(settings), list(specs))


def ensure_topics(settings: Settings, specs: Iterable[TopicSpec]) -> list[TopicReport]:
    """Create the topics that are missing, and check those that are there. Safe to call in several workers at once.

    Raises:
        TopicMismatch: a topic that is there does not fit. Nothing was created then.
        BrokerError: the broker can't be reached, or refuses us.
    """
    admin, wanted = Admin(settings), list(specs)
    before = _inspect(admin, wanted)
    _refuse_misfits(before)
    missing = {report.name for report in before if not report.partitions}
    if not missing:
        return before
    admin.create([spec for spec in wanted if spec.name in missing])
    admin.describe_when_ready([spec.name for spec in wanted])
    after = [
        TopicReport(report.name, report.partitions, report.name in missing, report.problem)
        for report in _inspect(admin, wanted)
    ]
    _refuse_misfits(after)
    return after


def topic_ids(settings: Settings, topics: Iterable[str]) -> dict[str, str]:
    """Return an id for each topic: another one when a topic is deleted and made anew under its old name.

    A broker from before topic ids (Kafka 2.8) can't tell the two apart; there the id is of the cluster and the name.

    Raises:
        BrokerError: the broker can't be reached, refuses us, or has no such topic.
    """
    return _topic_ids(Admin(settings), settings, list(topics))


@dataclass(frozen=True, slots=True)
class Identities:
    """What tells the topics that state was made with from others of the same name.

    Attributes:
        changelog: its id.
        sources: the ids of the source topics, by name.
        tombstones_kept_ms: how long the changelog keeps tombstones.
    """

    changelog: str
    sources: Mapping[str, str]
    tombstones_kept_ms: int


def identify(settings: Settings, topics: Topics) -> Identities:
    """Ask the broker what the topics are.

    Raises:
        BrokerError: as :func:`topic_ids`.
    """
    admin = Admin(settings)
    ids = _topic_ids(admin, settings, [topics.changelog, *topics.sources])
    kept_ms = admin.config(topics.changelog).get("delete.retention.ms", TOMBSTONES_KEPT_MS)
    return Identities(ids.pop(topics.changelog), ids, int(kept_ms))


def check_database(settings: Settings) -> None:
    """Read from the database, and write to it without changing anything, as the user that the settings name.

    Raises:
        DatabaseError: it can't be reached, or refuses us.
    """
    collections = [WINDOWS_COLLECTION, *([ITEMS_COLLECTION] if settings.store_items else [])]
    with open_database(settings) as database:
        for name in collections:
            # Not a ping, which a server answers to strangers too.
            database[name].find_one({}, {"_id": 1})
            # MongoDB asks for the right to update before it looks for a document, and none has this _id.
            database[name].update_one({"_id": ""}, {"$set": {"count": 0}})


@contextmanager
def open_database(settings: Settings) -> Iterator[Database[dict[str, Any]]]:
    """Connect to the database for a command, not for the worker; dates come back aware.

    Raises:
        DatabaseError: for whatever the driver raises under it. No part of the URL but its hosts is shown.
    """
    url = settings.mongodb_url.get_secret_value()
    timeout_ms = int(_DATABASE_TIMEOUT_S * 1000)
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            url, tz_aware=True, serverSelectionTimeoutMS=timeout_ms, connectTimeoutMS=timeout_ms
        )
    except (InvalidURI, ConfigurationError, ValueError):
        # The driver's own message can quote a part of the URL, and so of a password that is not escaped.
        raise DatabaseError(
            "FEEDBACK_MONGODB_URL: not a URL that the driver understands; user and password must be percent-encoded, "
            "and the host name of mongodb+srv must resolve"
        ) from None
    except OSError as error:
        raise DatabaseError(f"FEEDBACK_MONGODB_URL: tlsCAFile or tlsCertificateKeyFile: {error.strerror}") from None
    with client:
        hosts = ",".join(f"{host}:{port}" for host, port in sorted(client.topology_description.server_descriptions()))
        shown = f"FEEDBACK_MONGODB_URL={urlsplit(url).scheme}://{hosts}"
        try:
            yield client[settings.mongodb_database]
        except ServerSelectionTimeoutError as error:
            reason = str(error).partition(" (configured timeouts:")[0].partition(", Timeout:")[0]
            what = f"no answer within {_DATABASE_TIMEOUT_S:g} s; is it up?"
            if "SSL" in reason:
                what = (
                    "the TLS connection failed; check tls, tlsCAFile and tlsCertificateKeyFile in the URL, and that "
                    "the server's certificate is for its host"
                )
            raise DatabaseError(f"{shown}: {what} ({reason})") from None
        except OperationFailure as error:
            if error.code == _MONGODB_AUTHENTICATION_FAILED:
                reason = "authentication failed; check the user, the password and authSource in the URL"
            elif error.code == _MONGODB_UNAUTHORIZED:
                reason = (
                    f"not allowed in database {settings.mongodb_database}; the URL needs a user with readWrite on it"
                )
            else:
                reason = f"refused, code {error.code}"
            raise DatabaseError(f"{shown}: {reason}") from None
        except PyMongoError as error:
            raise DatabaseError(f"{shown}: {type(error).__name__}") from None


def _topic_ids(admin: Admin, settings: Settings, names: Sequence[str]) -> dict[str, str]:
    described = admin.describe(names)
    if absent := [name for name in names if name not in described]:
        raise BrokerError(f"FEEDBACK_BROKER_URL={settings.broker_url}: there is no topic {', '.join(absent)}")
    ids = {name: str(described[name].topic_id) for name in names}
    if _NO_TOPIC_ID in ids.values():
        cluster = admin.cluster_id()
        ids = {name: f"{cluster}/{name}" if id_ == _NO_TOPIC_ID else id_ for name, id_ in ids.items()}
    return ids


def _inspect(admin: Admin, specs: Sequence[TopicSpec]) -> list[TopicReport]:
    described = admin.describe([spec.name for spec in specs])
    reports = []
    for spec in specs:
        partitions = len(described[spec.name].partitions) if spec.name in described else 0
        problem = ""
        if partitions not in {0, spec.partitions}:
            problem = (
                f"topic {spec.name} has {partitions} partitions, configured are {spec.partitions}: set "
                f"FEEDBACK_PARTITIONS={partitions} or use another FEEDBACK_TOPIC_PREFIX"
            )
        elif partitions and spec.config.get("cleanup.policy") == "compact":
            policy = admin.config(spec.name).get("cleanup.policy", "compact")
            if policy != "compact":  # "compact,delete" too would delete windows that are still open
                problem = (
                    f"topic {spec.name} has cleanup.policy={policy}, it must be compact or state is lost: alter it "
                    f"with kafka-configs or use another FEEDBACK_TOPIC_PREFIX"
                )
        reports.append(TopicReport(spec.name, partitions, problem=problem))
    return reports


def _refuse_misfits(reports: Iterable[TopicReport]) -> None:
    for report in reports:
        if report.problem:
            raise TopicMismatch(report.problem)
