"""Commands on the application: ``faust -A feedback_app simulate``, ``verify``, ``topics``, ``forget`` and others.

None of them starts the worker's consumer or producer, and none joins its group.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn
from urllib.parse import quote

import click
import orjson
from faust.cli.base import AppCommand, argument, cli, option
from faust.types import AppT

from feedback_app.asking import ask
from feedback_app.deadletters.commands import dead_letters
from feedback_app.deadletters.letters import json_line
from feedback_app.errors import FeedbackError
from feedback_app.forgetting import count_items, erase_items, what_stays
from feedback_app.progress import sending, waiting
from feedback_app.provisioning import ensure_topics, inspect_topics
from feedback_app.settings import PREFIX, Settings
from feedback_app.showing import show_partitions, show_windows
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, paced, scenario, send, spread
from feedback_app.verification import Verdict, verify

_INTERRUPTED = 130
_TOKEN = option("--token", metavar="TEXT", help=f"The worker's token. [default: {PREFIX}WEB_TOKEN, which ps hides]")
_AS_JSON = option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class FeedbackCommand(AppCommand):
    """A command that blocks, and ends with the exit code that its function returns.

    Faust would run it in an event loop, and show a stack trace for an error that we have words for.
    """

    abstract: ClassVar[bool] = True

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        outcome: Any
        try:
            outcome = self.run(*self.args, *args, **self.kwargs, **kwargs)
        except click.ClickException as error:  # every error of ours is one
            error.show()
            outcome = error.exit_code
        except KeyboardInterrupt:
            outcome = _INTERRUPTED
        raise SystemExit(outcome)


def register_commands(app: AppT, settings: Settings) -> None:
    """Add the commands to ``faust -A feedback_app``."""

    @app.command(
        option("--events", type=click.IntRange(min=0), help="Send this many, as fast as possible. [default: 10000]"),
        option(
            "--span",
            type=click.FloatRange(min=0),
            default=0.0,
            help="With --events: spread their times over the last SPAN seconds. Only for topics that hold no later "
            "times yet.",
        ),
        option("--rate", type=click.FloatRange(min=0, min_open=True), help="Instead: send this many a second."),
        option("--seconds", type=click.FloatRange(min=0), help="With --rate: for how long. [default: until Ctrl-C]"),
        option("--agents", type=click.IntRange(min=1), default=100, help="Chat agents; the first is the busiest."),
        option("--seed", type=int, help="The same seed makes up the same traffic. [default: a new one]"),
        option("--late-share", type=click.FloatRange(0, 1), default=0.01, help="Share of events too late to count."),
        option("--invalid-share", type=click.FloatRange(0, 1), default=0.01, help="Share of records that are none."),
        _AS_JSON,
        base=FeedbackCommand,
    )
    def simulate(command: FeedbackCommand, **options: Any) -> int:
        """Send realistic chat feedback: skewed agents, disorder, truly late events and invalid records."""
        return _simulate(settings, as_json=options.pop("as_json") or command.json, **options)

    @app.command(
        option("--wait", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for the group to catch up."),
        option("--until-closed", is_flag=True, help="Use that time to wait for open windows to close, too."),
        _AS_JSON,
        base=FeedbackCommand,
    )
    def verify(command: FeedbackCommand, wait: float, until_closed: bool, as_json: bool) -> int:
        """Recount the input and compare: exit code 0 equal, 1 different, 2 not decided."""
        return _verify(settings, wait, until_closed=until_closed, as_json=as_json or command.json)

    @app.command(
        option("--check", is_flag=True, help="Exit with 1 when a topic is missing or does not fit the settings."),
        _AS_JSON,
        base=FeedbackCommand,
    )
    def topics(command: FeedbackCommand, check: bool, as_json: bool) -> int:
        """List the topics and how they fit the settings."""
        return _topics(settings, check=check, as_json=as_json or command.json)

    @app.command(
        option("--user-id", "user_id", required=True, metavar="ID", help="The user's id, as in the events."),
        option("--yes", is_flag=True, help="Do not ask first."),
        _AS_JSON,
        base=FeedbackCommand,
    )
    def forget(command: FeedbackCommand, user_id: str, yes: bool, as_json: bool) -> int:
        """Erase a user's items from the database, and say what stays."""
        return _forget(settings, user_id, yes=yes, as_json=as_json or command.json)

    url = option("--url", metavar="URL", help=f"A running worker's. [default: {_local(settings)}]")

    @app.command(argument("agent_id"), url, _TOKEN, _AS_JSON, base=FeedbackCommand)
    def windows(command: FeedbackCommand, agent_id: str, url: str | None, token: str | None, as_json: bool) -> int:
        """Show an agent's open windows, as a running worker has them."""
        if not 1 <= len(agent_id) <= 128:
            raise click.UsageError("an agent's id has 1 to 128 characters")
        path = f"/feedback/agents/{quote(agent_id, safe='', errors='surrogateescape')}?limit=0"
        return _asked(settings, path, url, token, None if as_json or command.json else show_windows)

    @app.command(url, _TOKEN, _AS_JSON, base=FeedbackCommand)
    def partitions(command: FeedbackCommand, url: str | None, token: str | None, as_json: bool) -> int:
        """Show all partitions: who owns each, and how far it is. Exit code 1 when a worker did not answer."""
        show = None if as_json or command.json else show_partitions
        return _asked(settings, "/feedback/partitions", url, token, show)

    cli.add_command(dead_letters(settings))


def _simulate(
    settings: Settings,
    *,
    events: int | None,
    span: float,
    rate: float | None,
    seconds: float | None,
    agents: int,
    seed: int | None,
    late_share: float,
    invalid_share: float,
    as_json: bool,
) -> int:
    if rate is not None and (events is not None or span):
        raise click.UsageError("--rate and --events exclude each other; --span goes with --events")
    if rate is None and seconds is not None:
        raise click.UsageError("--seconds goes with --rate")
    if late_share + invalid_share > 1:
        raise click.UsageError("--late-share and --invalid-share are more than 1 together")
    seed = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    plan = scenario(settings, seed=seed, agents=agents, late_share=late_share, invalid_share=invalid_share)
    ensure_topics(settings, Topics.of(settings).specs())
    if rate is None:
        total: float | None = 10_000 if events is None else events
        times = spread(int(total or 0), span)
    else:
        total = None if seconds is None else rate * seconds
        times = paced(rate, seconds)
    traffic = Traffic()
    try:
        with sending(total) as report:
            send(settings, plan, times, traffic, report)
    except KeyboardInterrupt:
        if total is not None:
            raise
    totals = {**traffic.as_json(), "seed": seed}
    _print(totals, as_json=as_json)
    return 0


def _verify(settings: Settings, wait: float, *, until_closed: bool, as_json: bool) -> int:
    try:
        with waiting("looking at the group") as report:
            verdict = verify(settings, wait, until_closed=until_closed, report=report)
    except FeedbackError as error:
        verdict = Verdict(reason=error.message)
    totals = verdict.as_json()
    if as_json:
        _print(totals, as_json=True)
        return verdict.exit_code
    samples, reason = totals.pop("samples"), totals.pop("reason")
    if reason:
        click.echo(f"Not decided: {reason}", err=True)
        return verdict.exit_code
    _print(totals, as_json=False)
    for line in samples:
        click.echo(line)
    return verdict.exit_code


def _topics(settings: Settings, *, check: bool, as_json: bool) -> int:
    rows = [
        {
            "topic": found.name,
            "partitions": found.partitions,
            "problem": found.problem or ("" if found.partitions else f"topic {found.name} is missing"),
        }
        for found in inspect_topics(settings, Topics.of(settings).specs())
    ]
    if as_json:
        _print({"topics": rows}, as_json=True)
    else:
        for row in rows:
            click.echo(f"{row['partitions']:>5} partitions  {row['topic']}")
        for row in rows:
            if row["problem"]:
                click.echo(row["problem"])
    return int(check and any(row["problem"] for row in rows))


def _forget(settings: Settings, user_id: str, *, yes: bool, as_json: bool) -> int:
    if not 1 <= len(user_id) <= 128 or "\x00" in user_id:
        raise click.UsageError("--user-id has 1 to 128 characters, none of them NUL")
    if not yes:
        found = count_items(settings, user_id)
        if found and not _confirmed(f"Erase {found:,} items of this user for good?"):
            click.echo("Nothing was erased.", err=True)
            return 1
    with sending(None, "erasing", "items") as report:
        erased = erase_items(settings, user_id, report)
    stays = what_stays(settings)
    if as_json:
        _print({"erased": erased, "stays": stays}, as_json=True)
        return 0
    click.echo(f"{erased:,} items were erased. What stays:")
    for where, what in stays.items():
        click.echo(f"  {where}: {what}")
    return 0


def _asked(
    settings: Settings, path: str, url: str | None, token: str | None, show: Callable[[dict[str, Any]], None] | None
) -> int:
    """Ask a worker and show its answer, by default as JSON."""
    if token is None and settings.web_token is not None:
        token = settings.web_token.get_secret_value()
    answer = ask(url or _local(settings), path, token)
    if show is None:
        click.echo(json_line(answer))
    else:
        show(answer)
    return int(bool(answer.get("unanswered")))


def _local(settings: Settings) -> str:
    return f"http://localhost:{settings.web_port}"


def _confirmed(question: str) -> bool:
    """Ask on stderr; no answer at all is a no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        click.echo(err=True)
        return False


def _print(totals: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps(totals).decode())
        return
    for name, value in totals.items():
        shown = ("yes" if value else "no") if isinstance(value, bool) else f"{value:,}"
        click.echo(f"{name.replace('_', ' '):>18}  {shown}")
