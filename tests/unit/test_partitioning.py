"""Agents land on the partitions that Kafka's own clients give them."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core import partitioning
from feedback_app.core.partitioning import murmur2, partition_of, partitioner


@pytest.mark.parametrize(
    ("data", "signed"),
    [  # from Kafka's own UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_gives_what_kafkas_tests_demand(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed & 0xFFFFFFFF


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=200))
def test_murmur2_agrees_with_aiokafkas(data: bytes) -> None:
    assert murmur2(data) == aiokafka_murmur2(data) & 0xFFFFFFFF


@hypothesis_settings(deadline=None)
@given(st.text(min_size=1, max_size=128).filter(lambda text: text.isprintable()), st.integers(1, 1_000))
def test_an_agents_partition_is_that_of_its_utf8_key(agent_id: str, partitions: int) -> None:
    hashed = aiokafka_murmur2(agent_id.encode("utf-8"))
    assert partition_of(agent_id, partitions) == (hashed & 0x7FFFFFFF) % partitions


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What was hashed, in order."""
    calls: list[bytes] = []

    def counting(data: bytes) -> int:
        calls.append(data)
        return murmur2(data)

    monkeypatch.setattr(partitioning, "murmur2", counting)
    return calls


def test_a_partitioner_hashes_an_agent_once(hashed: list[bytes]) -> None:
    cached = partitioner(8)
    answers = [cached(agent_id) for agent_id in ("ann", "bob", "ann", "ann", "bob")]
    assert hashed == [b"ann", b"bob"]
    assert answers == [partition_of(agent_id, 8) for agent_id in ("ann", "bob", "ann", "ann", "bob")]


def test_partitioners_with_other_numbers_of_partitions_know_nothing_of_each_other() -> None:
    agents = [f"agent-{number}" for number in range(50)]
    eight, three = partitioner(8), partitioner(3)
    assert [eight(agent) for agent in agents] == [partition_of(agent, 8) for agent in agents]
    assert [three(agent) for agent in agents] == [partition_of(agent, 3) for agent in agents]


def test_the_cache_is_bounded(hashed: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partitioning, "_CACHED_AGENTS", 3)
    cached = partitioner(8)
    for agent_id in ("a", "b", "c", "d", "d", "a"):
        assert cached(agent_id) == partition_of(agent_id, 8)
    # The fourth agent empties the cache: "a" is hashed again, "d" is not. Each answer was checked by a second hash.
    assert hashed.count(b"d") == 1 + 2
    assert hashed.count(b"a") == 2 + 2
