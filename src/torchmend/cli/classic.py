"""`python diagnose_and_fix.py`: the classic recipe's command line over the library."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from torchmend.cli.common import Exit, complain, say, use_any_encoding
from torchmend.doctor.fixing import FixOptions, FixResult, fix_file, fixed_name
from torchmend.facts.errors import TorchmendError
from torchmend.facts.findings import Diagnosis
from torchmend.repairs.planning import Strategy
from torchmend.reports.classic import classic_text
from torchmend.reports.repair_text import plan_text
from torchmend.reports.summary import Cure, cure, sound_copies


def parser() -> argparse.ArgumentParser:
    """Describe the options, which are those of the classic recipe and a few more."""
    made = argparse.ArgumentParser(
        prog="diagnose_and_fix.py", description="Diagnose a checkpoint, and repair it with --fix."
    )
    made.add_argument("--checkpoint", required=True, type=Path, metavar="PATH", help="the checkpoint file")
    made.add_argument("--fix", action="store_true", help="write NAME_FIXED beside it")
    made.add_argument(
        "--donor",
        action="append",
        type=Path,
        default=[],
        metavar="PATH",
        help="a healthy checkpoint of the same model",
    )
    made.add_argument(
        "--strategy",
        choices=[s.value for s in Strategy],
        default=Strategy.LADDER.value,
        help="reset is the classic 0/1",
    )
    made.add_argument("--metadata", action="store_true", help="repair learning rates and metrics too")
    made.add_argument("--force", action="store_true", help="replace an existing NAME_FIXED")
    return made


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 healthy, 1 damaged or refused, 2 not checked."""
    use_any_encoding()
    options = parser().parse_args(arguments)
    try:
        return _run(options)
    except TorchmendError as error:
        complain(f"diagnose_and_fix: {error}")
    except KeyboardInterrupt:
        complain("diagnose_and_fix: interrupted; nothing was left half-written.")
        return Exit.INTERRUPTED
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        complain(f"diagnose_and_fix: {error.strerror}{where}. The source is untouched.")
    return Exit.UNCHECKED


def _run(options: argparse.Namespace) -> int:
    fixing = FixOptions(
        donors=tuple(options.donor),
        strategy=Strategy(options.strategy),
        force=options.force,
        dry_run=not options.fix,
        metadata=options.metadata,
    )
    result = fix_file(options.checkpoint, fixing)
    say(classic_text(result.before))
    if not result.before.checked:
        return Exit.UNCHECKED
    if not options.fix:
        _print_how_to_repair(result.before, options.checkpoint)
        return Exit.OK if result.before.healthy else Exit.FINDINGS
    _report(result, options.checkpoint)
    healthy = (result.after or result.before).healthy
    return Exit.OK if healthy and result.succeeded else Exit.FINDINGS


def _print_how_to_repair(diagnosis: Diagnosis, checkpoint: Path) -> None:
    copied = sound_copies(diagnosis)
    cures = {cure(finding, copied) for finding in diagnosis.damaged}
    if not cures & {Cure.FILE, Cure.METADATA}:
        return
    metadata = " --metadata" if Cure.METADATA in cures else ""
    command = f"python diagnose_and_fix.py --checkpoint {shlex.quote(str(checkpoint))} --fix{metadata}"
    say(f"\nTo repair it: {command}")


def _report(result: FixResult, checkpoint: Path) -> None:
    if not result.before.damaged:
        say("\nNothing to repair; no file was written.")
        return
    say("\n" + plan_text(result.plan))
    for path in result.siblings:
        say(f"  healthy sibling: {path}")
    if result.output is not None:
        say(f"\nFixed checkpoint saved: {result.output}")
    else:
        say(
            f"\n{fixed_name(checkpoint)} was not written, since something had to be refused. "
            "Go back to a healthy checkpoint, or name one with --donor."
        )
