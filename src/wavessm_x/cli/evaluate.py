"""`wavessm evaluate`."""

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wavessm_x.cli.common import MODEL_FILE, DeviceOption, Exit, ModelFile, Overlap, Tile, load_restorer, tell
from wavessm_x.config import DataConfig

if TYPE_CHECKING:
    from wavessm_x.data import Skipped
    from wavessm_x.restoring.scoring import Scored


def evaluate(  # one parameter a flag
    folder: Annotated[Path, typer.Argument(help="Photographs, or pairs in inp/ and target/.")],
    model_file: ModelFile = MODEL_FILE,
    masks: Annotated[
        Path | None, typer.Option("--masks", help="Masks of your own, white where a picture is to be filled.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The scores of each picture: .csv or .json.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of masks and damage that are drawn.")] = 42,
    tile: Tile = 256,
    overlap: Overlap = 32,
    device: DeviceOption = "auto",
) -> None:
    """Score a network on whole pictures: PSNR and SSIM, over all pixels and over those to be restored.

    Masks, or damage for a blind network, depend on the seed and the pictures' names alone. A file that cannot be used
    is named, and the others go on: then the exit code is 1, and 2 if no picture is scored.
    """
    from wavessm_x.data import load_whole
    from wavessm_x.metrics import mean_scores
    from wavessm_x.restoring.scoring import NAMES, Scored, check_scores_file, score_all, write_scores

    if output is not None:
        check_scores_file(output)
    restorer = load_restorer(model_file, device, tile, overlap)
    whole = load_whole(DataConfig(data_path=folder, masks=masks, seed=seed), masked=restorer.masked)
    tell(whole.task)
    typer.echo(_line("picture", NAMES))
    results: list[Scored | Skipped] = []
    for each in chain(whole.left_out, score_all(restorer, whole.pictures)):
        _show(each)
        results.append(each)
    scored = [each for each in results if isinstance(each, Scored)]
    failed = [each for each in results if not isinstance(each, Scored)]
    if scored:
        means = mean_scores(each.scores for each in scored)
        typer.echo(_line(f"mean of {len(scored)}", (f"{value:.3f}" for value in means.values())))
    if output is not None:
        write_scores(output, scored, failed)
    if failed:
        raise typer.Exit(Exit.FAILED if scored else Exit.UNUSABLE)


def _show(result: "Scored | Skipped") -> None:
    """Print a picture's scores, or say on stderr why there are none."""
    from wavessm_x.data import Skipped

    if isinstance(result, Skipped):
        tell(f"{result.path} failed: {result.reason}")
    else:
        typer.echo(_line(result.name, (f"{value:.3f}" for value in result.scores.values())))


def _line(name: str, columns: Iterable[str]) -> str:
    return f"{name:<32}" + "".join(f"{each:>13}" for each in columns)
