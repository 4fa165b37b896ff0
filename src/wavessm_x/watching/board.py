"""What a TensorBoard shows of a training."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image


def board(folder: Path) -> "Board":
    """Return a TensorBoard's writer for a folder, which is made; `tensorboard --logdir FOLDER` shows it."""
    return Board(folder)


class Board:
    """Write numbers and pictures for a TensorBoard.

    Args:
        folder: Of the event files; a resumed training adds another file.
        resume_at: Steps that the checkpoint has behind it; what was shown of later ones is hidden.
    """

    def __init__(self, folder: Path, resume_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resume_at is None else resume_at + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

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
