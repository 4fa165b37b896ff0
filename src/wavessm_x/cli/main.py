"""The application: its commands, and the one place where expected errors become messages and exit codes."""

from collections.abc import Sequence

import typer

import torchmend
from wavessm_x.cli.common import Exit, tell
from wavessm_x.cli.demo import demo
from wavessm_x.cli.evaluate import evaluate
from wavessm_x.cli.export import export
from wavessm_x.cli.predict import predict
from wavessm_x.cli.train import train
from wavessm_x.config import WavessmError

app = typer.Typer(
    name="wavessm",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (train, predict, evaluate, export, demo):
    app.command()(command)

EXTRAS = {"gradio": "page"}
"""What to install for the sake of a package that not every command needs."""


@app.callback()
def main() -> None:
    """Restore damaged or missing regions of pictures."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: As on a command line; those of the process by default.

    Returns:
        The exit code.
    """
    try:
        app(arguments)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(error.name or "", "wavessm")
        tell(f"wavessm: {error}. From a clone, `pip install '.[{extra}]'` installs what it needs.")
        return Exit.UNUSABLE
    except (WavessmError, torchmend.TorchmendError, OSError) as error:
        tell(f"wavessm: {error}")
        return Exit.FAILED if isinstance(error, torchmend.TrainingStoppedError) else Exit.UNUSABLE
    return Exit.OK
