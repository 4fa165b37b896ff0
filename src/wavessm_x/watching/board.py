"""What a TensorBoard shows of a training."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def board(folder: Path, resume_at: int | None = None) -> "Board":
    """Return what writes for a TensorBoard.

    Args:
        folder: Of the event files, which is made; `tensorboard --logdir FOLDER` shows it. A resumed training adds
            a file.
        resume_at: Steps that the checkpoint has behind it; what was shown of later ones is hidden.
    """
    from torch.utils.tensorboard import SummaryWriter

    purge = None if resume_at is None else resume_at + 1
    return Board(SummaryWriter(str(folder), purge_step=purge))


class Board:
    """Write numbers and pictures for a TensorBoard."""

    def __init__(self, writer: "SummaryWriter") -> None:
        self._writer = writer

    def numbers(self, iteration: int, values: Mapping[str, float]) -> None:
        """Show numbers at an iteration; a name may have a group before a slash, such as val/psnr."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, iteration)

    def picture(self, iteration: int, name: str, path: Path) -> None:
        """Show a PNG at an iteration."""
        with Image.open(path) as picture:
            self._writer.add_image(name, np.asarray(picture.convert("RGB")), iteration, dataformats="HWC")

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        """Return the board."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is left, and close the file."""
        self.close()
