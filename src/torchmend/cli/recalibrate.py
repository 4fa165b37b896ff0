"""`torchmend recalibrate`."""

import shlex
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from torchmend.cli.common import Exit, painter, progress_bar, say
from torchmend.cli.users_code import importing_from_here, made, named, told_as_users, with_torch
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import FixOptions, FixResult, carry_out
from torchmend.facts.errors import UserError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import Edit, Refusal, RepairPlan
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports.repair_text import plan_text
from torchmend.reports.text import diagnosis_text, headline

Source = Annotated[Path, typer.Argument(metavar="PATH", help="The checkpoint. It is only read.")]
Model = Annotated[
    str, typer.Option(metavar="MODULE:NAME", help="The model, or a function that makes it; weights come from PATH.")
]
Data = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="Batches, or a function that makes them: a DataLoader, a list."),
]
Noise = Annotated[
    str | None,
    typer.Option(metavar="SHAPE", help="Use noise of this shape, batch first: 16,3,224,224. No data needed."),
]
Layers = Annotated[
    str, typer.Option(metavar="damaged|all|NAMES", help="Which layers: those with damage, all, or names with commas.")
]
MostBatches = Annotated[int, typer.Option(metavar="N", min=2, help="How many batches are read.")]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="PATH", help="Where the result goes [default: NAME_FIXED beside the source]."
    ),
]
Evaluate = Annotated[
    str | None, typer.Option(metavar="MODULE:NAME", help="A function of the model that returns a metric.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Measure, print the plan, and write nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]


def recalibrate(
    path: Source,
    model: Model,
    data: Data = None,
    noise: Noise = None,
    layers: Layers = "damaged",
    most_batches: MostBatches = 32,
    evaluate: Evaluate = None,
    output: Output = None,
    dry_run: DryRun = False,
    force: Force = False,
) -> None:
    """Measure running statistics again, by running the model on data or on noise.

    Needs PyTorch, and runs your code: the modules that you name are imported, from this folder too. Only running
    means and variances change, in a copy of the file, and torchmend unfix undoes it. Exits 0 when the result is
    healthy, 1 when something else in it is damaged, 2 when it could not be done.
    """
    if (data is None) == (noise is None):
        raise typer.BadParameter("Give either --data or --noise.")
    files = with_torch("recalibrate", "torchmend.live.recalibrating.files")
    torchmend = import_module("torchmend")
    with importing_from_here():
        net = made(model, "--model")
        batches = torchmend.noise(_shape(noise)) if noise is not None else made(data or "", "--data")
        metric = named(evaluate, "--evaluate") if evaluate else None
        job = _Job(
            files,
            net,
            lambda: torchmend.recalibrate(
                net,
                batches,
                layers=layers if layers in ("damaged", "all") else layers.split(","),
                evaluate=metric,
                most_batches=most_batches,
            ),
        )
        options = FixOptions(output=output, allow_partial=True, dry_run=dry_run, force=force)
        with progress_bar(path.name) as bar:
            result = carry_out(path, options, job.plan, bar)
    _print(result, job.done, dry_run=dry_run)
    if not result.before.checked:
        raise typer.Exit(Exit.UNCHECKED)
    raise typer.Exit(Exit.OK if result.succeeded else Exit.FINDINGS)


class _Job:
    """Plans by recalibrating a model that the file is loaded into.

    Args:
        files: The module that knows models and files.
        model: The user's.
        run: Recalibrates it.
    """

    def __init__(self, files: Any, model: Any, run: Any) -> None:
        self.done: Any = None
        self._files = files
        self._model = model
        self._run = run

    def plan(self, before: Diagnosis, source: FileSource, _: dict[str, FileSource]) -> RepairPlan:
        """Load, recalibrate, and say what that changes in the file, and which damage it leaves."""
        named = self._files.load(self._model, source, before.main)
        with told_as_users("Running the model"):
            self.done = self._run()
        edits, refused = self._files.edits(self._model, self.done, named, source.pinned)
        return RepairPlan(
            source=str(source.path), edits=tuple(edits), refused=(*refused, *_left(before, edits, refused))
        )


def _left(before: Diagnosis, edits: list[Edit], refused: list[Refusal]) -> list[Refusal]:
    """Return the damage that no recalibration mends."""
    mended = {edit.ref.storage for edit in edits}
    told = {refusal.about for refusal in refused}
    abouts = (finding.ref or finding.scalar for finding in before.damaged)
    return [
        Refusal(about=about, reason=_why_left(about, before.main))
        for about in dict.fromkeys(each for each in abouts if each is not None)
        if about not in told and getattr(about, "storage", None) not in mended
    ]


def _why_left(about: TensorRef | Scalar, main: str) -> str:
    if isinstance(about, TensorRef) and about.role.is_statistic and about.container != main:
        return "it is not in the model that was run; `torchmend fix` is for the others in the file"
    return "only running statistics are recalibrated; `torchmend fix` is for the rest"


def _shape(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--noise is {text!r}. Give whole numbers with commas, the batch size first: 16,3,224,224.")
    return tuple(map(int, parts))


# The report


def _print(result: FixResult, done: Any, *, dry_run: bool) -> None:
    paint = painter()
    if done is None:
        say(diagnosis_text(result.before, paint))
        return
    say(headline(result.before, paint))
    if not result.plan.is_empty or result.plan.refused:
        say(plan_text(result.plan, paint))
    say(f"\n{done.summary()}")
    if result.output is not None and result.after is not None:
        say(f"Wrote {headline(result.after, paint)}")
        say(f"To undo it: torchmend unfix {shlex.quote(str(result.output))}")
    elif dry_run:
        say("Dry run: nothing was written.")
    else:
        say("No file was written.")
