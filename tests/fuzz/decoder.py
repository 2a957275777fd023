"""A coverage-guided fuzzer of the decoder and the fold: ``python -m tests.fuzz.decoder --runs 1000000 --seed 1``.

An input is a batch: its first byte chooses the topic, :data:`_SEPARATOR` parts the records. Needs the extra ``fuzz``.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Final

import atheris

with atheris.instrument_imports(include=["feedback_app.models", "feedback_app.folding", "feedback_app.cutting"]):
    import feedback_app.models  # noqa: F401  # what is imported in here is what guides
    from tests.fuzz.corpus import NASTY_LITERALS, nasties, simulated
    from tests.fuzz.harness import NOW_MS, TOPICS, Record, check

from feedback_app.core.headers import Header

_SEPARATOR: Final = b"\x00\x1e\x00"
_LONGEST: Final = 512
_MOST_RECORDS: Final = 4
_TOLD_EVERY_S: Final = 10.0


def records_of(data: bytes) -> list[Record]:
    """Return the batch that an input stands for."""
    values = data[1:].split(_SEPARATOR)[:_MOST_RECORDS]
    if not data[:1] or data[0] & 1 == 0:
        return [Record(value, offset) for offset, value in enumerate(values)]
    # Forwarded, says whoever wrote it, and names an origin: any bytes.
    return [
        Record(
            value,
            offset,
            TOPICS.repartition,
            value[:3],
            [
                (Header.ORIGIN_TOPIC, value[-6:-4]),
                (Header.ORIGIN_PARTITION, value[-4:-3]),
                (Header.ORIGIN_OFFSET, value[-3:]),
                ("trace", value[:5]),
            ],
            bad_name=data[0] & 2 != 0,
        )
        for offset, value in enumerate(values)
    ]


class Run:
    """One run: it ends the process, for libFuzzer never returns, and removes *folder*."""

    def __init__(self, runs: int, seed: int, folder: Path) -> None:
        self._runs, self._seed, self._folder = runs, seed, folder
        self._started = self._told = time.monotonic()
        self._inputs = self._records = self._events = self._dead = 0

    def one(self, data: bytes) -> None:
        """Run one input; called by the fuzzer."""
        try:
            records = records_of(data)
            endings = check(records)
        except BaseException:  # noqa: BLE001  # whatever it is, it is what we are looking for
            traceback.print_exc()
            self._end(1, f"violated by input {data.hex()}")
        self._inputs += 1
        self._records += len(records)
        self._dead += endings.dead
        self._events += len(records) - endings.dead
        if self._inputs >= self._runs:
            self._end(0, "no violation")
        if time.monotonic() - self._told > _TOLD_EVERY_S:
            self._told = time.monotonic()
            print(f"{self._inputs} inputs", file=sys.stderr, flush=True)

    def _end(self, code: int, outcome: str) -> None:
        print(
            f"seed {self._seed}: {self._inputs} inputs with {self._records} records in "
            f"{time.monotonic() - self._started:.0f} s; {self._events} ended as events, {self._dead} as dead letters; "
            f"{outcome}"
        )
        shutil.rmtree(self._folder)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def seeds() -> list[bytes]:
    """Return the inputs to start from: each known record by itself, on either topic, and some together."""
    records = [value or b"" for value in (*nasties(NOW_MS), *simulated(NOW_MS, 300))]
    alone = [b"\x00" + value for value in records] + [b"\x01" + value for value in records[::7]]
    together = [b"\x00" + _SEPARATOR.join(records[start : start + 4]) for start in range(0, len(records), 16)]
    return [data for data in alone + together if len(data) <= _LONGEST]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.decoder", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="how many inputs to run")
    parser.add_argument("--seed", type=int, default=None, help="the same seed tries the same; random by default")
    parser.add_argument("--input", type=bytes.fromhex, help="run this one input (hex, as printed) and end")
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(1, 1 << 31) if args.seed is None else args.seed
    print(f"seed {seed}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="feedback-fuzz-"))
    run = Run(1 if args.input else args.runs, seed, folder)
    if args.input is not None:
        run.one(args.input)
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for number, data in enumerate(seeds()):
        (corpus / f"{number:05}").write_bytes(data)
    literals = [literal for literal in (*NASTY_LITERALS, _SEPARATOR) if len(literal) < 60]
    escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in literals)
    words.write_text("".join(f'"{word}"\n' for word in escaped))
    options = [
        f"-runs={2 * args.runs}",  # Run counts, and ends, by itself
        f"-seed={seed}",
        f"-max_len={_LONGEST}",
        f"-dict={words}",
        f"-artifact_prefix={folder}/",
        "-timeout=20",
        "-verbosity=0",
    ]
    atheris.Setup([sys.argv[0], *options, str(corpus)], run.one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
