"""`wavessm export`."""

from pathlib import Path
from typing import Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, ModelFile, tell


def export(
    output: Annotated[Path, typer.Option("--output", "-o", help=".pt2 for torch.export.load, .onnx for ONNX.")],
    model_file: ModelFile = MODEL_FILE,
    size: Annotated[int, typer.Option("--size", help="Height and width of pictures, in pixels.")] = 256,
) -> None:
    """Write a network for other programs, for pictures of one size; what was written is run and compared first.

    Larger pictures are cut into tiles of that size, as `wavessm predict` does it. The inputs are `image` [1, 3, s, s]
    in 0 to 1 and, unless the network is blind, `mask` [1, 1, s, s], 1 where the picture is to be filled.
    """
    from wavessm_x.restoring.exporting import export as write
    from wavessm_x.restoring.restorer import Restorer

    difference = write(Restorer.load(model_file).model, output, size)
    tell(f"{output} gives what the network gives: the largest difference is {difference:.1e}.")
