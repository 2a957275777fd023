"""MongoDB as the sink: the only module that uses motor, and the only one through which a worker writes to MongoDB.

An upsert is done here in two unordered bulk writes, and mostly in one: *insert* everything, then *replace* what turned
out to be there already. Measured on SecantusDB with ``--sync-on-commit`` and batches of 1,000: 4,000 new window
documents/s (both indexes) and 8,000 new items/s, against 950/s and 1,900/s for a ``ReplaceOne`` with ``upsert=True``
each; an ``UpdateOne`` with ``$set`` is slower by a fifth to a third again. Windows and items are nearly always new.
It also leaves no race of two upserts to sort out: a duplicate ``_id`` says for certain that a document is there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import pymongo
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from motor.core import AgnosticCollection
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import IndexModel, InsertOne, ReadPreference, ReplaceOne, UpdateOne, WriteConcern
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from feedback_app.core.clock import Clock, SystemClock
from feedback_app.core.documents import Document, date
from feedback_app.errors import SettingsError
from feedback_app.measuring import NO_METER, Collection, CommandOutcome, Meter, Operation
from feedback_app.settings import PREFIX, Settings
from feedback_app.sinks import Outcome, SinkUnavailable
from feedback_app.sinks.archive import Archive
from feedback_app.sinks.expiry import EXPIRY, plan
from feedback_app.sinks.failures import SOME_DOCUMENT_AT_FAULT, Failure, Written, describe

logger = logging.getLogger(__name__)

_Collection = AgnosticCollection[Document]
_Operation = InsertOne[Document] | ReplaceOne[Document] | UpdateOne

_OPERATION_NAMES: Final[dict[type, Operation]] = {InsertOne: "insert", ReplaceOne: "replace", UpdateOne: "update"}

_SERVER_SELECTION_S: Final = 5.0
#: How long the server may take over one command, and so much more for each operation in a large bulk write.
_COMMAND_S: Final = 20.0
_OPERATION_S: Final = 0.01
_CLOSE_S: Final = 2.0

_ATTEMPTS: Final = 2
_IDS_IN_ONE_QUERY: Final = 1_000
_INDEX_CONFLICTS: Final = frozenset({85, 86})
_INDEX_NOT_FOUND: Final = 27


class MongoSink:
    """Implements ``feedback_app.sinks.Sink``. Every write is acknowledged by a majority, from its journals.

    A call that is cancelled may still be carried out, by the driver's thread: harmless, since a window is fenced by
    its count and an item by its time and origin. The driver itself never repeats a write: the caller does, and
    server-side bookkeeping for retryable writes would only cost.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        windows_collection: str = "feedback_windows",
        items_collection: str = "feedback",
        clock: Clock | None = None,
        meter: Meter = NO_METER,
        server_selection_timeout_s: float = _SERVER_SELECTION_S,
        command_timeout_s: float | None = None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            settings: the URL and the database.
            windows_collection: where windows go.
            items_collection: where items go.
            clock: tells ``closedAt``; the machine's by default.
            meter: is told of every command.
            server_selection_timeout_s: how long a call waits for a server that can't be reached; the URL's
                option of that name wins, here and below.
            command_timeout_s: how long a call waits for a server that does not answer; by default 20 s, and 10 ms
                more for each operation of the largest bulk write that the settings allow.

        Raises:
            SettingsError: the driver does not understand the URL.
        """
        self._clock = clock or SystemClock()
        self._items_expire_after_s = settings.items_expire_after_s
        self._windows_expire_after_s = settings.windows_expire_after_s
        self._meter = meter
        command_timeout_s = command_timeout_s or _COMMAND_S + _OPERATION_S * settings.batch_size
        self._client = _connect(settings, server_selection_timeout_s, command_timeout_s)
        database = self._client.get_database(settings.mongodb_database)
        self._windows, self._items = (
            database.get_collection(
                name,
                # A majority that is missing is to be told by the server, before the call gives up on the server itself.
                write_concern=WriteConcern("majority", j=True, wtimeout=round(command_timeout_s * 500)),
                read_preference=ReadPreference.PRIMARY,
                read_concern=ReadConcern("local"),
            )
            for name in (windows_collection, items_collection)
        )

    def archive(self) -> Archive:
        """Return what reads the windows for pages, on the same connections."""
        aware: Any = self._windows.with_options(codec_options=CodecOptions(tz_aware=True))
        return Archive(aware)

    async def prepare(self) -> None:
        """Create the indexes that are missing, and let documents expire as the settings say. It can be called any
        number of times.

        Raises:
            SinkUnavailable: nothing is known of them; repeat.
        """
        by_agent = IndexModel([("agentId", pymongo.ASCENDING), ("windowStart", pymongo.ASCENDING)])
        try:
            await self._create(self._windows, by_agent)
            await self._let_expire(self._windows, "windowEnd", self._windows_expire_after_s, wanted_anyway=True)
            await self._let_expire(self._items, "timestamp", self._items_expire_after_s, wanted_anyway=False)
        except PyMongoError as error:
            raise SinkUnavailable(describe(error)) from None

    async def _create(self, collection: _Collection, index: IndexModel) -> None:
        try:
            await collection.create_indexes([index])
        except OperationFailure as error:
            if error.code not in _INDEX_CONFLICTS:
                raise
            logger.warning("an index on the same fields is there and is left as it is: %s", describe(error))

    async def _let_expire(
        self, collection: _Collection, field: str, after_s: int | None, *, wanted_anyway: bool
    ) -> None:
        """Bring the index on *field* in line with the settings. Several workers may do so at once."""
        existing = await collection.list_indexes().to_list(None)
        todo = plan(existing, field, after_s, wanted_anyway=wanted_anyway)
        if todo.problem:
            logger.error("%s: documents do not expire as configured: %s", collection.name, todo.problem)
        for name in todo.drop:
            await self._drop(collection, name)
        if todo.create_plain:
            await self._create(collection, IndexModel([(field, pymongo.ASCENDING)]))
        create = todo.create
        if todo.change:
            change = {"name": EXPIRY, "expireAfterSeconds": after_s}
            try:
                await collection.database.command("collMod", collection.name, index=change)
            except OperationFailure as error:  # not every server that speaks the protocol can do that
                logger.info("%s: the index is made anew: %s", collection.name, describe(error))
                await self._drop(collection, EXPIRY)
                create = True
        if create and after_s is not None:
            index = IndexModel([(field, pymongo.ASCENDING)], name=EXPIRY, expireAfterSeconds=after_s)
            await self._create(collection, index)
        if create or todo.change or EXPIRY in todo.drop:
            shown = "never" if after_s is None else f"{after_s} s after their {field}"
            logger.info("%s: documents expire %s from now on", collection.name, shown)

    async def _drop(self, collection: _Collection, name: str) -> None:
        try:
            await collection.drop_index(name)
        except OperationFailure as error:
            if error.code != _INDEX_NOT_FOUND:  # another worker was faster
                raise

    async def upsert_windows(self, documents: Sequence[Document]) -> Outcome:
        """See ``feedback_app.sinks.Sink``. Each ``_id`` is expected once."""
        closed_at = date(self._clock.now_ms())
        pending = [{**document, "closedAt": closed_at} for document in documents]
        ahead: dict[str, int] = {}
        refused: dict[str, str] = {}
        for _ in range(_ATTEMPTS):
            pending = await self._store_windows(pending, ahead, refused)
            if not pending:
                return Outcome(ahead, refused)
        raise SinkUnavailable(f"{len(pending)} window documents are deleted, or set back, while they are written")

    async def _store_windows(
        self, documents: Sequence[Document], ahead: dict[str, int], refused: dict[str, str]
    ) -> list[Document]:
        """Store *documents*, note in *ahead* and *refused* what is not, and return those that need another attempt."""
        there = await self._insert(self._windows, documents, refused)
        replaced = await self._write(
            self._windows,
            [
                ReplaceOne({"_id": document["_id"], "count": {"$lte": document["count"]}}, document)
                for document in there
            ],
        )
        refused.update({there[position]["_id"]: failure.message for position, failure in replaced.failures.items()})
        if replaced.matched + len(replaced.failures) == len(there):
            return []
        # The server says how many were not matched, not which.
        unsure = [document for position, document in enumerate(there) if position not in replaced.failures]
        counts = await self._counts(self._windows, [document["_id"] for document in unsure])
        again = []
        for document in unsure:
            document_id = document["_id"]
            if document_id not in counts:
                again.append(document)
            elif not isinstance(count := counts[document_id], int | float):
                refused[document_id] = "a document that has no count is in its place"
            elif count < document["count"]:
                again.append(document)
            elif count > document["count"]:
                ahead[document_id] = int(count)
        return again

    async def upsert_items(self, items: Sequence[Document]) -> int:
        """See ``feedback_app.sinks.Sink``. Of two items with one ``_id``, whichever order they come in, the one with
        the later timestamp stays; at the same time, the one with the later origin (offset, partition, topic).
        """
        newest: dict[str, Document] = {}
        for item in items:
            other = newest.setdefault(item["_id"], item)
            if other is not item and _order(item) > _order(other):
                newest[item["_id"]] = item
        refused: dict[str, str] = {}
        there = await self._insert(self._items, list(newest.values()), refused)
        replaced = await self._write(
            self._items, [UpdateOne({"_id": item["_id"]}, _replace_older(item)) for item in there]
        )
        refused.update({there[position]["_id"]: failure.message for position, failure in replaced.failures.items()})
        if refused:
            self._meter.items_refused(len(refused))
            reason = next(iter(refused.values()))
            logger.warning("%s of %s items are refused; one reason: %s", len(refused), len(newest), reason)
        return len(refused)

    async def close(self) -> None:
        """Let go of the connections. Whatever is called afterwards raises :class:`SinkUnavailable`."""
        # Not on the event loop: it takes leave of the server, which may not answer.
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        with pymongo.timeout(_CLOSE_S):
            self._client.close()

    async def _insert(
        self, collection: _Collection, documents: Sequence[Document], refused: dict[str, str]
    ) -> list[Document]:
        """Insert *documents*, note in *refused* what is refused for good, and return what is there already."""
        inserted = await self._write(collection, [InsertOne(document) for document in documents])
        there = []
        # An operator may have made a unique index of his own. It refuses a document for good, unless that is there
        # itself: SecantusDB then names this index, and not that of the ``_id``.
        in_doubt: dict[str, Document] = {}
        for position, failure in inserted.failures.items():
            document = documents[position]
            if failure.duplicate_in == "_id":
                there.append(document)
            else:
                refused[document["_id"]] = failure.message
                if failure.duplicate_in:
                    in_doubt[document["_id"]] = document
        if in_doubt:
            for document_id in await self._counts(collection, list(in_doubt)):
                del refused[document_id]
                there.append(in_doubt[document_id])
        return there

    async def _write(self, collection: _Collection, operations: Sequence[_Operation]) -> Written:
        """Issue one unordered bulk write, and see what became of each operation.

        Raises:
            SinkUnavailable: nothing is known of any of them.
        """
        if not operations:
            return Written(0, {})
        try:
            with self._measured(collection, _OPERATION_NAMES[type(operations[0])], len(operations)):
                result = await collection.bulk_write(operations, ordered=False)
        except BulkWriteError as error:
            return Written.from_details(error.details)
        except (BSONError, OverflowError, UnicodeError) as error:
            # The driver can't encode some document, and has not written those after it.
            reason = describe(error)
        except OperationFailure as error:
            if error.code not in SOME_DOCUMENT_AT_FAULT:
                raise SinkUnavailable(describe(error)) from None
            reason = describe(error)
        except PyMongoError as error:
            raise SinkUnavailable(describe(error)) from None
        else:
            return Written(result.matched_count, {})
        if len(operations) == 1:
            return Written(0, {0: Failure(reason)})
        # Halving finds the culprit, whatever makes it one; writing the others twice changes nothing.
        middle = len(operations) // 2
        first = await self._write(collection, operations[:middle])
        return first.followed_by(await self._write(collection, operations[middle:]), middle)

    async def _counts(self, collection: _Collection, ids: Sequence[str]) -> dict[str, Any]:
        """Return the counts of those documents of *ids* that are there; None for what has no count."""
        counts: dict[str, Any] = {}
        try:
            for start in range(0, len(ids), _IDS_IN_ONE_QUERY):
                some = {"_id": {"$in": ids[start : start + _IDS_IN_ONE_QUERY]}}
                with self._measured(collection, "find", 1):
                    async for stored in collection.find(some, {"count": 1}):
                        counts[stored["_id"]] = stored.get("count")
        except PyMongoError as error:
            raise SinkUnavailable(describe(error)) from None
        return counts

    @contextmanager
    def _measured(self, collection: _Collection, operation: Operation, operations: int) -> Iterator[None]:
        """Tell of one command; of one that is cancelled, nothing is known."""
        name: Collection = "windows" if collection is self._windows else "items"
        began = time.perf_counter()
        outcome: CommandOutcome | None = None
        try:
            yield
            outcome = "answered"
        except BulkWriteError:
            outcome = "answered"  # some documents were not written
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            if outcome is not None:
                self._meter.command(name, operation, operations, outcome, time.perf_counter() - began)


def _connect(
    settings: Settings, server_selection_timeout_s: float, command_timeout_s: float
) -> AsyncIOMotorClient[Document]:
    url = settings.mongodb_url.get_secret_value()
    # Not the driver's own timeoutMS: it takes the place of the server selection timeout.
    timeouts = {
        "serverSelectionTimeoutMS": round(server_selection_timeout_s * 1000),
        "connectTimeoutMS": round(server_selection_timeout_s * 1000),
        "socketTimeoutMS": round(command_timeout_s * 1000),
    }
    # To the driver, an argument beats what the URL says.
    in_url = {option.partition("=")[0].lower() for option in urlsplit(url).query.split("&")}
    options: dict[str, Any] = {name: value for name, value in timeouts.items() if name.lower() not in in_url}
    try:
        return AsyncIOMotorClient(url, appName=settings.app_id, retryWrites=False, retryReads=False, **options)
    except OSError as error:
        raise SettingsError(f"{PREFIX}MONGODB_URL: tlsCAFile or tlsCertificateKeyFile: {error.strerror}") from None
    except (PyMongoError, ValueError):
        # The driver's message may quote the URL.
        raise SettingsError(
            f"{PREFIX}MONGODB_URL: not a URL that the driver understands; user and password must be percent-encoded"
        ) from None


def _order(item: Document) -> tuple[Any, int, int, str]:
    origin = item["origin"]
    return item["timestamp"], origin["offset"], origin["partition"], origin["topic"]


def _replace_older(item: Document) -> list[Document]:
    """Return the update that puts *item* in the place of an older one, and changes nothing otherwise.

    It compares as :func:`_order` does, in the server and at once. A filter could say the same with ``$or``, at the
    price of a duplicate-key error for every item that is not older; on SecantusDB, ``$or`` scans the collection.
    """
    timestamp, offset, partition, topic = _order(item)
    stored = ["$timestamp", "$origin.offset", "$origin.partition", "$origin.topic"]
    # $literal: "$" at the beginning of what a user wrote is no reference to a field.
    ours = [timestamp, offset, partition, {"$literal": topic}]
    return [{"$replaceWith": {"$cond": [{"$lt": [stored, ours]}, {"$literal": item}, "$$ROOT"]}}]
