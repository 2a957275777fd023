"""``faust -A feedback_app dead-letters list`` and ``dead-letters replay``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
from faust.cli.base import State

from feedback_app.core.partitioning import partitioner
from feedback_app.deadletters.editing import Edit, EditedFile, Expression, unchanged
from feedback_app.deadletters.judging import Judge, Ready, Refused
from feedback_app.deadletters.letters import Wanted, json_line, printable, shown
from feedback_app.deadletters.reading import LetterTopic, Survey
from feedback_app.deadletters.replaying import ReplayProducer, Totals, replay
from feedback_app.errors import BrokerError, FeedbackError, TopicMismatch
from feedback_app.progress import sending, waiting
from feedback_app.provisioning import inspect_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader

_INTERRUPTED: Final = 130

_ERROR = click.option("--error", default="", metavar="TEXT", help="Only letters whose error contains TEXT.")
_LIMIT = click.option("--limit", type=click.IntRange(min=1), help="At most this many.")


class UnknownLetter(FeedbackError):
    """There is no such letter."""


class _Command(click.Command):
    """A command that ends with the exit code that its function returns."""

    def invoke(self, context: click.Context) -> Any:
        try:
            outcome = super().invoke(context)
        except KeyboardInterrupt:
            outcome = _INTERRUPTED
        context.exit(outcome)


def dead_letters(settings: Settings) -> click.Group:
    """Return the group of commands ``dead-letters``."""

    @click.group("dead-letters")
    def group() -> None:
        """Look at dead letters, and send them again."""

    @group.command("list", cls=_Command)
    @_ERROR
    @_LIMIT
    @click.option("--replayed/--not-replayed", default=None, help="Only letters that were, or were not, sent again.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line: edit them for a replay.")
    @click.pass_context
    def list_(context: click.Context, /, error: str, limit: int | None, replayed: bool | None, as_json: bool) -> int:
        """Show dead letters: why, from where, when, and what they hold."""
        return _list(settings, Wanted(error, replayed), limit, as_json=as_json or _json_is_wanted(context))

    @group.command("replay", cls=_Command)
    @_ERROR
    @_LIMIT
    @click.option("--edit", "expression", metavar="EXPR", help="Change each event by a jq expression, as '.score = 5'.")
    @click.option(
        "--from-file",
        "path",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Send what edited lines of 'list --json' say, for the letters that they name.",
    )
    @click.option("--dry-run", is_flag=True, help="Send nothing; say what would be sent, and what is still invalid.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON objects, one a line; the last has the totals.")
    @click.pass_context
    def replay_(context: click.Context, /, as_json: bool, **options: Any) -> int:
        """Send dead letters again, each at most once. Exit code 0 done, 1 something was not sent.

        All that were not sent again before, or those that the options say. An event that is still invalid is not sent.
        """
        return _replay(settings, as_json=as_json or _json_is_wanted(context), **options)

    return group


def _json_is_wanted(context: click.Context) -> bool:
    """Return whether ``faust --json`` was said, before the command."""
    return bool(context.ensure_object(State).json)


def _list(settings: Settings, wanted: Wanted, limit: int | None, *, as_json: bool) -> int:
    _check_topics(settings)
    with TopicReader(settings) as reader:
        topic = LetterTopic(settings, reader)
        with waiting("looking for letters") as report:
            survey = topic.survey(report, settled=False)
        with closing(topic.letters(survey)) as letters:
            for letter in islice((letter for letter in letters if letter in wanted), limit):
                click.echo(letter.as_json() if as_json else letter.as_text())
    return 0


def _replay(
    settings: Settings,
    *,
    error: str,
    limit: int | None,
    expression: str | None,
    path: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    if expression is not None and path is not None:
        raise click.UsageError("--edit and --from-file exclude each other")
    with ExitStack() as stack:
        edit: Edit = unchanged if expression is None else Expression(expression)
        wanted, file = Wanted(error), None
        if path is not None:
            edit = file = EditedFile(path)
            stack.callback(file.close)
            wanted = Wanted(error, ids=file.letters)
        _check_topics(settings)
        reader = stack.enter_context(TopicReader(settings))
        producer = None if dry_run else ReplayProducer(settings)
        topic = LetterTopic(settings, reader)
        with waiting("looking for letters") as report:
            if producer is not None:
                producer.fence()
            survey = topic.survey(report, settled=producer is not None, sought=file.letters if file else ())
        if file is not None:
            _check_known(file, survey)
        totals = Totals()
        try:
            with sending(survey.waiting, "replaying", "letters") as progress, closing(topic.letters(survey)) as letters:
                replay(
                    letters,
                    wanted,
                    Judge(edit, time.time_ns() // 1_000_000 + settings.max_future_ms),
                    totals,
                    limit=limit,
                    send=producer.replay if producer else None,
                    tell=_teller(settings, as_json=as_json),
                    report=progress,
                )
        finally:
            _show(totals, dry_run=dry_run, as_json=as_json)
    return int(totals.not_sent > 0)


def _check_topics(settings: Settings) -> None:
    topics = Topics.of(settings)
    ours = [spec for spec in topics.specs() if spec.name in {topics.feedback, topics.dead_letter}]
    for found in inspect_topics(settings, ours):
        if not found.partitions:
            raise BrokerError(f"there is no topic {found.name}: has a worker been started with these settings?")
        if found.problem:
            raise TopicMismatch(found.problem)


def _check_known(file: EditedFile, survey: Survey) -> None:
    unknown = sorted(file.line_of(letter) for letter in file.letters - survey.found)
    if unknown:
        more = f", and {len(unknown) - 1} lines more" if len(unknown) > 1 else ""
        raise UnknownLetter(f"--from-file: line {unknown[0]}{more}: there is no such letter; nothing was sent")


def _teller(settings: Settings, *, as_json: bool) -> Callable[[Ready | Refused], None]:
    partition_of = partitioner(settings.partitions)

    def tell(judged: Ready | Refused) -> None:
        letter = judged.letter
        if isinstance(judged, Refused):
            text = f"{letter.name}  not sent: {printable(judged.reason)}"
            fields: dict[str, Any] = {"error": judged.reason}
        else:
            to, value = partition_of(judged.agent_id), judged.value.decode()
            text = f"{letter.name}  would be sent to partition {to}: {shown(judged.value)}"
            fields = {"to": to, "value": value}
        if as_json:
            text = json_line({"partition": letter.place.partition, "offset": letter.place.offset, **fields})
        click.echo(text)

    return tell


def _show(totals: Totals, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json_line({**totals.as_json(), "dry_run": dry_run}))
        return
    for name, value in totals.as_json().items():
        click.echo(f"{name.replace('_', ' '):>18}  {value:,}")
