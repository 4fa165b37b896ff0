"""The application: its commands, and the one place where expected errors become messages and exit codes."""

import errno
import os
import signal
import sys
from importlib import metadata
from typing import Annotated

import typer

from torchmend.cli.common import Exit, complain, use_any_encoding
from torchmend.cli.compare import compare
from torchmend.cli.convert import convert
from torchmend.cli.diagnose import diagnose
from torchmend.cli.explain import explain
from torchmend.cli.fix import fix
from torchmend.cli.inspect import inspect
from torchmend.cli.pick import pick
from torchmend.cli.recalibrate import recalibrate
from torchmend.cli.replay import replay
from torchmend.cli.salvage import salvage
from torchmend.cli.unfix import unfix
from torchmend.cli.watch import watch
from torchmend.facts.errors import TorchmendError

app = typer.Typer(
    name="torchmend",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (diagnose, fix, recalibrate, unfix, salvage, convert, inspect, compare, pick, watch, replay, explain):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"torchmend {metadata.version('torchmend')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find and repair numerical corruption in PyTorch checkpoints, without PyTorch."""


def _terminate(*_: object) -> None:
    """Leave by an exception, so that temporary files are removed on the way out."""
    sys.exit(Exit.TERMINATED)


def _is_closed_pipe(error: OSError) -> bool:
    """Return whether writing failed since nobody reads; Windows says EINVAL, without a file name."""
    on_windows = os.name == "nt" and error.errno == errno.EINVAL and not error.filename
    return isinstance(error, BrokenPipeError) or on_windows


def run() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _terminate)
    use_any_encoding()
    try:
        app()
    except SystemExit as leaving:
        if leaving.code == Exit.INTERRUPTED:  # how typer leaves after Ctrl-C, without a word
            complain("torchmend: interrupted; nothing was left half-written.")
        raise
    except TorchmendError as error:
        complain(f"torchmend: {error}")
        code = Exit.UNCHECKED
    except OSError as error:
        if _is_closed_pipe(error):  # the reader of our output has gone, as with `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(Exit.FINDINGS)
        where = f" ({error.filename})" if error.filename else ""
        complain(f"torchmend: {error.strerror}{where}. Nothing was left half-written; the source is untouched.")
        code = Exit.UNCHECKED
    sys.exit(code)
