"""``feedback-app``: the commands that need no settings. All others are commands on the application, see ``faust``."""

from __future__ import annotations

import sys

import click

from feedback_app import __version__


@click.group()
@click.version_option(__version__, prog_name="feedback-app")
def main() -> None:
    """Feedback aggregation on Faust. The worker: faust -A feedback_app worker."""


@main.command()
@click.option("--events", type=click.IntRange(min=1), default=50_000, show_default=True, help="Records to send.")
@click.option("--agents", type=click.IntRange(min=1), default=200, show_default=True, help="Chat agents.")
@click.option("--window-ms", type=click.IntRange(min=100), default=5_000, show_default=True, help="Size of a window.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes up the same traffic.")
@click.option(
    "--items",
    is_flag=True,
    help="Also store every event; the embedded database takes only some 1,000 of them a second.",
)
@click.option("--exit", "leave", is_flag=True, help="End when all is counted, instead of staying up until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print the totals as one JSON object, the last line of stdout.")
def demo(events: int, agents: int, window_ms: int, seed: int, items: bool, leave: bool, as_json: bool) -> None:
    """Run everything on this machine, send simulated feedback, and prove that all of it was counted.

    Broker and database are embedded ones: no Java, no Docker. Exits with 1 when something was not counted as it must.
    """
    from feedback_app.demo import DemoOptions, run_demo

    sys.exit(run_demo(DemoOptions(events, agents, window_ms, seed, items, leave, as_json)))


if __name__ == "__main__":
    main()
