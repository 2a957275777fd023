"""Events that happen now, sent at a rate, or as fast as that goes."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Final

from benchmarks.scale.beside import Stopped
from benchmarks.workload import Totals, produce, producer_to

#: How often events are made: those of one such step have the same time.
_STEP_S: Final = 0.01
#: Of a sender without a rate: few enough that what waits in its queue is not old when it is sent.
_QUEUED: Final = 20_000
_AT_A_TIME: Final = 500
_PREPARED: Final = 10_007


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is sent: events of *agents* agents, each as likely as the other, timestamped when they are made.

    Attributes:
        servers: the broker.
        topic: where they go.
        agents: how many.
        window_ms: the size of a window.
        rate: events a second; as many as possible where that is 0.
        seed: which agents.
    """

    servers: str
    topic: str
    agents: int
    window_ms: int
    rate: float = 0.0
    seed: int = 1

    def send(self, stopped: Stopped) -> Totals:
        """Send until told to stop; return the right totals."""
        rng = random.Random(self.seed)
        agents = [f"agent-{number:05d}" for number in range(self.agents)]
        keys = [agent.encode() for agent in agents]
        prepared = [
            (
                agent,
                f'{{"feedbackId":"f-%d","agentId":"{agents[agent]}","userId":"u","rating":"{rating}","timestamp":%d}}',
            )
            for agent, rating in zip(
                rng.choices(range(self.agents), k=_PREPARED),
                rng.choices(("positive", "positive", "negative", "neutral"), k=_PREPARED),
                strict=True,
            )
        ]
        producer = producer_to(self.servers, linger_ms=5, queued=1_000_000 if self.rate else _QUEUED)
        counts: Counter[tuple[int, int]] = Counter()
        sent, started = 0, time.monotonic()
        while not stopped():
            due = round(self.rate * (time.monotonic() - started)) if self.rate else sent + _AT_A_TIME
            now_ms = time.time_ns() // 1_000_000
            window = now_ms - now_ms % self.window_ms
            for number in range(sent, due):
                agent, value = prepared[number % _PREPARED]
                produce(producer, self.topic, (value % (number, now_ms)).encode(), keys[agent])
                counts[agent, window] += 1
            sent = max(sent, due)
            producer.poll(0)
            if self.rate:
                time.sleep(_STEP_S)
        if producer.flush(120):
            raise RuntimeError(f"{self.topic}: the broker did not take all of the input")
        return {(agents[agent], window): count for (agent, window), count in counts.items()}
