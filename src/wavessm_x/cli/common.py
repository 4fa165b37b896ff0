"""What the commands share: exit codes, what is said on the way, and flags that mean the same everywhere."""

import logging
import sys
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavessm_x.config import Device

if TYPE_CHECKING:
    from wavessm_x.restoring import Restorer


class Exit(IntEnum):
    """What every command returns."""

    OK = 0
    FAILED = 1
    """The guard stopped a training, or some of several pictures failed."""
    UNUSABLE = 2
    """The input is of no use."""
    INTERRUPTED = 130
    """Asked to stop, and saved."""


ModelFile = Annotated[Path, typer.Option("--model_file", help="The checkpoint of a training.")]
"""Where commands that use a network find it."""

MODEL_FILE = Path("checkpoints/wavessm_x.pth")
"""Where `wavessm train` leaves it by default."""

DeviceOption = Annotated[Device, typer.Option("--device", help="auto takes CUDA where there is any.")]

Tile = Annotated[int, typer.Option("--tile", help="Height and width of tiles, in pixels; best as in training.")]

Overlap = Annotated[int, typer.Option("--overlap", help="Of neighbouring tiles, in pixels.")]


def load_restorer(model_file: Path, device: Device, tile: int, overlap: int) -> "Restorer":
    """Load a network as the flags of these names say."""
    from wavessm_x.restoring.restorer import Restorer, find_device
    from wavessm_x.restoring.tiles import Tiling

    return Restorer.load(model_file, find_device(device), Tiling(tile=tile, overlap=overlap))


class Lines(logging.Handler):
    """Writes to what stderr is at that moment: while a progress bar is shown, the bar makes room for lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr)  # noqa: T201


def show_log() -> None:
    """Have log lines shown on stderr."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Lines()])


def tell(message: str) -> None:
    """Write a line to stderr."""
    typer.echo(message, err=True)
