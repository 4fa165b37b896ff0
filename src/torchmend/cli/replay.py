"""`torchmend replay`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from torchmend.cli.common import Exit, say
from torchmend.cli.users_code import importing_from_here, made, named, told_as_users, with_torch

Folder = Annotated[Path, typer.Argument(metavar="CAPSULE", help="The folder of a capsule. It is only read.")]
Model = Annotated[
    str,
    typer.Option(
        metavar="MODULE:NAME",
        help="The model, or a function that makes it (several: a list); weights are the capsule's.",
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(metavar="MODULE:NAME", help="A function of model and batch that returns the loss."),
]
Checkpoint = Annotated[
    Path | None, typer.Option(metavar="PATH", help="Where weights come from that the capsule does not hold.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where to run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def replay(
    capsule: Folder,
    model: Model,
    loss: Loss = None,
    checkpoint: Checkpoint = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Run a failing batch again: where it fails, with which examples, and whether precision is the cause.

    Needs PyTorch, and runs your code: the modules that you name are imported, from this folder too. Reading the
    capsule runs nothing. Exits 0 when the same failure shows in the same module, 1 when it does not, 2 when it could
    not be run.
    """
    replaying = with_torch("replay", "torchmend.live.forensics.replaying")
    with importing_from_here():
        nets = made(model, "--model")
        function = named(loss, "--loss") if loss else None
        with told_as_users("Running the batch again"):
            result = replaying.replay(capsule, nets, function, checkpoint=checkpoint, device=device)
    say(json.dumps(result.data(), indent=2) if as_json else str(result))
    raise typer.Exit(Exit.OK if result.reproduced else Exit.FINDINGS)
