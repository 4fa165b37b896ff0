"""`torchmend watch`."""

import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Annotated

import typer

from torchmend.cli.common import Exit, Format, complain, painter, say
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.doctor.pins import Pins
from torchmend.doctor.watching import SETTLED, Sighting, Watcher
from torchmend.facts.codes import Severity
from torchmend.facts.errors import UserError
from torchmend.keeping.families import HIDDEN
from torchmend.reports.machine import SCHEMA_VERSION, diagnosis_data
from torchmend.reports.text import headline

_LOOK_ANYWAY = 30.0
"""Seconds after which the folder is looked at even if nobody told of a change."""

_PAUSE = 0.2
"""Seconds between looks while `--once` waits for a file to be finished."""


def watch(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a run.")],
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="How many healthy checkpoints to keep.")] = 1,
    once: Annotated[bool, typer.Option("--once", help="Look once, and exit as diagnose does.")] = False,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move corrupted files to .torchmend/quarantine beside them.")
    ] = False,
    link: Annotated[
        bool, typer.Option("--link", help="Keep hard links: for trainers that never write to a file twice.")
    ] = False,
    settle: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long a file must not change before it is read.")
    ] = SETTLED,
    poll: Annotated[bool, typer.Option("--poll", help="Poll: for network file systems that tell nothing.")] = False,
    format: Annotated[Format, typer.Option(help="How lines are written; json gives an object a line.")] = Format.TEXT,  # noqa: A002
) -> None:
    """Judge the checkpoints of a run as they come, and keep the last healthy one.

    Copies of the newest healthy checkpoints are kept in FOLDER/.torchmend/healthy, where the trainer's own rotation
    does not reach them. Runs until it is interrupted; exits 0 when nothing was wrong, 1 when something was or a
    file could not be kept, 2 when one could not be checked.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder. Name the folder that holds the run's checkpoints.")
    watcher = Watcher(Pins(root=folder, keep=keep, link=link), quarantine=quarantine, settled=settle)
    worst = Exit.OK
    with _stopped_by_signals() as stop:
        rounds = _until_settled(watcher, stop) if once else _as_they_come(watcher, folder, stop, poll=poll)
        if once:
            checkpoint_paths(folder)  # says so if there are none
        for sighting in rounds:
            _tell(sighting, format)
            worst = max(worst, _exit_code(sighting))
    raise typer.Exit(worst)


def _until_settled(watcher: Watcher, stop: Event) -> Iterator[Sighting]:
    yield from watcher.look(time.monotonic(), time.time())
    while watcher.is_waiting and not stop.wait(_PAUSE):
        yield from watcher.look(time.monotonic(), time.time())


def _as_they_come(watcher: Watcher, folder: Path, stop: Event, *, poll: bool) -> Iterator[Sighting]:
    changes = _changes(folder, stop, max(watcher.settled, 0.1), poll=poll)
    complain(f"Watching {folder}. Ctrl-C ends it.")
    looked = time.monotonic()
    yield from watcher.look(looked, time.time())
    for changed in changes:
        if stop.is_set():
            return
        if changed or watcher.is_waiting or time.monotonic() - looked > _LOOK_ANYWAY:
            looked = time.monotonic()
            yield from watcher.look(looked, time.time())


def _changes(folder: Path, stop: Event, seconds: float, *, poll: bool) -> Iterable[object]:
    """Yield whenever something changed below a folder, and an empty set every few seconds.

    Raises:
        UserError: The library that watches is not installed.
    """
    try:
        import watchfiles
    except ModuleNotFoundError as error:
        if error.name != "watchfiles":
            raise
        raise UserError(
            "Watching needs the package watchfiles: pip install 'torchmend[watch]'. "
            "torchmend watch --once needs nothing more, and can be run again and again."
        ) from None
    return watchfiles.watch(
        folder,
        watch_filter=lambda _, path: HIDDEN not in Path(path).parts,
        stop_event=stop,
        rust_timeout=round(1000 * seconds),
        yield_on_timeout=True,
        force_polling=True if poll else None,
        ignore_permission_denied=True,
    )


@contextmanager
def _stopped_by_signals() -> Iterator[Event]:
    """Give an event that Ctrl-C or SIGTERM sets, so that what is under way is finished; a second one ends at once."""
    stop = Event()
    before: dict[int, Callable[..., object] | int | None] = {}

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(sighting: Sighting) -> Exit:
    if not sighting.diagnosis.checked:
        return Exit.UNCHECKED
    return Exit.OK if sighting.diagnosis.healthy and not sighting.problem else Exit.FINDINGS


def _tell(sighting: Sighting, format: Format) -> None:  # noqa: A002 - the option's name
    if format is Format.JSON:
        say(json.dumps(_data(sighting), allow_nan=False))
        return
    line = headline(sighting.diagnosis, painter())
    errors = [each for each in sighting.diagnosis.findings if each.severity is Severity.ERROR]
    if errors:
        more = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        line += f" {errors[0].code.value} {errors[0].place or errors[0].message}{more}"
    if sighting.pinned is not None:
        line += f", kept as {sighting.pinned}"
    if sighting.quarantined is not None:
        line += f", moved to {sighting.quarantined}"
    say(line)
    if sighting.problem:
        complain(f"torchmend: {sighting.path} could not be kept or moved: {sighting.problem}.")


def _data(sighting: Sighting) -> dict[str, object]:
    return {
        "schema": SCHEMA_VERSION,
        **diagnosis_data(sighting.diagnosis),
        "pinned": None if sighting.pinned is None else str(sighting.pinned),
        "quarantined": None if sighting.quarantined is None else str(sighting.quarantined),
        "problem": sighting.problem,
    }
