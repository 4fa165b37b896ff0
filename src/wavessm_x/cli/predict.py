"""`wavessm predict`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, DeviceOption, Exit, ModelFile, Overlap, Tile, load_restorer, tell
from wavessm_x.config import WavessmError

if TYPE_CHECKING:
    from wavessm_x.data import Skipped
    from wavessm_x.restoring import Restorer
    from wavessm_x.restoring.files import Job


def predict(  # one parameter a flag
    image: Annotated[Path, typer.Argument(help="A picture, or a folder of pictures.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file, or a folder, which is made.")],
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            help="White is filled; one for all pictures, or a folder of masks that have the pictures' names. "
            "Without it, what is transparent in a picture is filled.",
        ),
    ] = None,
    model_file: ModelFile = MODEL_FILE,
    dilate: Annotated[int, typer.Option("--dilate", min=0, help="Widen the mask by so many pixels.")] = 0,
    tile: Tile = 256,
    overlap: Overlap = 32,
    device: DeviceOption = "auto",
) -> None:
    """Fill pictures, or restore them by a blind network; what is not masked stays as it is.

    Large pictures are worked on in tiles. Existing outputs are replaced; a file is written whole or not at all. In a
    folder each picture that fails is named, and the others go on: then the exit code is 1, and 2 if none succeeds.
    """
    from wavessm_x.restoring.files import plan
    from wavessm_x.restoring.restorer import RestoringError

    jobs = plan(image, mask, output)
    restorer = load_restorer(model_file, device, tile, overlap)
    if (mask is not None or dilate) and not restorer.masked:
        raise RestoringError(
            f"The network of {model_file} is blind, it finds damage by itself: leave --mask and --dilate out."
        )
    done = 0
    for number, job in enumerate(jobs, start=1):
        succeeded, told = _attempt(restorer, job, dilate)
        tell(f"[{number}/{len(jobs)}] {told}")
        done += succeeded
    if done < len(jobs):
        raise typer.Exit(Exit.FAILED if done else Exit.UNUSABLE)


def _attempt(restorer: "Restorer", job: "Job | Skipped", dilation: int) -> tuple[bool, str]:
    """Restore a picture; return whether that went well, and what to say of it."""
    from wavessm_x.data import Skipped
    from wavessm_x.data.reading import UnreadableError
    from wavessm_x.restoring.files import restore_file

    if isinstance(job, Skipped):
        return False, f"{job.path} failed: {job.reason}"
    try:
        filled = restore_file(restorer, job, dilation)
    except (UnreadableError, WavessmError, OSError) as error:
        return False, f"{job.picture} failed: {error}"
    return True, f"{job.picture} -> {job.output}{_polarity(filled, job.mask)}"


def _polarity(filled: float | None, mask: Path | None) -> str:
    """Say how much was filled, and which way round the mask was understood."""
    from wavessm_x.data.supplied import polarity_hint

    if filled is None:
        return ""
    if mask is None:
        return f": what is transparent is filled, {filled:.1%}."
    return f": white is filled, {filled:.1%}.{polarity_hint(filled)}"
