"""The database goes, comes, refuses, and dawdles."""

from __future__ import annotations

from contextlib import suppress

import pymongo
import pymongo.errors

from feedback_app.core.documents import date
from tests.chaos.arena import Arena
from tests.chaos.fleet import ChaosWorker, ScenarioFailed
from tests.chaos.registry import scenario


def _is_degraded(worker: ChaosWorker) -> bool:
    return (worker.get("/health/ready")[1] or {}).get("status") == "degraded"


@scenario("database killed and restarted", quick=True)
def database_killed(arena: Arena) -> None:
    arena.at_work(1_000)
    for _ in range(3):
        arena.database.kill()
        arena.fleet.rest(arena.random.uniform(0.1, 2))
        arena.database.start()
        arena.until_sent(800)


@scenario("database away for several windows, worker killed meanwhile")
def database_away(arena: Arena) -> None:
    worker = arena.at_work(1_000)
    arena.database.kill()
    arena.fleet.until(lambda: _is_degraded(worker), "readiness says degraded")
    arena.fleet.rest(6 * worker.settings.batch_time_ms / 1000)
    worker.crash()
    arena.fleet.rest(2)
    arena.database.start()
    arena.until_sent(1_000)


@scenario("database away with items on")
def database_away_with_items(arena: Arena) -> None:
    """Consumption pauses: an item is stored before it is counted."""
    arena.configure(store_items=True)
    worker = arena.at_work(1_000)
    arena.database.kill()
    arena.fleet.until(lambda: _is_degraded(worker), "readiness says degraded")
    arena.fleet.rest(4)
    arena.database.start()
    arena.until_sent(1_000)


@scenario("database not primary")
def database_not_primary(arena: Arena) -> None:
    arena.at_work(1_000)
    for command in ("insert", "update", "find"):
        with arena.failing(command, errorCode=10107):
            arena.until_sent(1_000)


@scenario("database closes connections")
def database_closes_connections(arena: Arena) -> None:
    arena.at_work(1_000)
    for command in ("insert", "update"):
        with arena.failing(command, mode={"times": 10}, closeConnection=True):
            arena.until_sent(1_000)


@scenario("database answers slowly")
def database_answers_slowly(arena: Arena) -> None:
    arena.at_work(1_000)
    with arena.failing("insert", blockConnection=True, blockTimeMS=1_500):
        arena.until_sent(3_000)


@scenario("write errors on some operations of a bulk")
def write_errors_on_some(arena: Arena) -> None:
    """A unique index of the operator's own refuses windows in whose place something else stands, until that goes."""
    worker = arena.at_work(1_000)
    with arena.documents() as database:
        collection = database["feedback_windows"]
        collection.create_index([("agentId", pymongo.ASCENDING), ("windowEnd", pymongo.ASCENDING)], unique=True)
        in_the_way = [
            {"_id": f"in the way of {agent} {start}", "agentId": agent, "windowEnd": date(start + size)}
            for agent, start, size in arena.windows_under_way()
        ][::3]
        collection.insert_many(in_the_way)
        arena.fleet.until(lambda: "refused" in str(worker.get("/health/ready")[1]), "windows are refused")
        collection.delete_many({"_id": {"$in": [document["_id"] for document in in_the_way]}})


@scenario("two upserts race for one document", quick=True)
def two_upserts_race(arena: Arena) -> None:
    """Somebody else inserts the documents that are about to be inserted, with less counted, as a zombie would."""
    arena.at_work(1_000)
    raced = 0
    with arena.documents() as database:
        collection = database["feedback_windows"]
        for _ in range(5):
            for agent, start, size in arena.windows_under_way():
                with suppress(pymongo.errors.DuplicateKeyError):  # it is closed, so there is no race for it
                    collection.insert_one({"_id": f"{agent}|{start}|{size}", "agentId": agent, "count": 0})
                    raced += 1
            arena.until_sent(800)
    if not raced:
        raise ScenarioFailed("there was no race")
