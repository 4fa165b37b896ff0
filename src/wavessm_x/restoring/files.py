"""Pictures in files, or folders of them, restored into files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wavessm_x.data.folders import Skipped, files
from wavessm_x.data.reading import Pixels, read
from wavessm_x.restoring.drafts import draft
from wavessm_x.restoring.masking import dilated, read_masked
from wavessm_x.restoring.restorer import Restorer, RestoringError

QUALITY = 95
"""Of JPEG and its like, of 100: an edited photograph should not look worse for having been saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A picture to be restored.

    Args:
        picture: Its file.
        mask: The file of its mask; None if there is none, or the picture's own transparency is meant.
        output: Where the restored picture is to be.
    """

    picture: Path
    mask: Path | None
    output: Path


def plan(image: Path, mask: Path | None, output: Path) -> list[Job | Skipped]:
    """Pair pictures with masks and outputs; nothing is read or written yet.

    Args:
        image: A picture, or a folder of them at any depth.
        mask: A mask for all, a folder of masks with the pictures' names but for the suffix, or None.
        output: A file, or a folder. In a folder the pictures keep their names and become PNG, which loses nothing.

    Returns:
        A job for each picture, or why there is none.

    Raises:
        RestoringError: A file or folder is missing, there are no pictures, or the output cannot be what is asked.
    """
    for path in (image, mask):
        if path is not None and not path.exists():
            raise RestoringError(f"{path} does not exist, seen from {Path.cwd()}. Name one that does.")
    if not image.is_dir():
        named = {image.stem: image}
        is_folder = output.is_dir() or not output.suffix
        return list(_jobs(named, mask, output if is_folder else None, output))
    if output.is_file():
        raise RestoringError(f"{output} is a file, but {image} is a folder. Name a folder for the restored pictures.")
    inside = [each for each in (mask, output) if each is not None and each != image]
    pictures = [each for each in files(image) if not any(each.is_relative_to(other) for other in inside)]
    if not pictures:
        raise RestoringError(f"There are no pictures in {image}. Put files such as PNG or JPEG there.")
    named, skipped = _by_name(image, pictures)
    return [*_jobs(named, mask, output, output), *skipped]


def restore_file(restorer: Restorer, job: Job, dilation: int = 0) -> float | None:
    """Restore a picture of a file into a file.

    Args:
        restorer: The network.
        job: Which files. What stands at the output is replaced, once the new picture is complete.
        dilation: By so many pixels the mask is widened.

    Returns:
        The share of the picture that was filled, 0 to 1; None for a blind network.

    Raises:
        UnreadableError: A file is no whole picture.
        RestoringError: Picture and mask do not fit together, or the output can hold no picture.
        OSError: The output cannot be written.
    """
    check_output(job.output)
    if not restorer.masked:
        write(restorer.restore(read(job.picture)), job.output)
        return None
    picture, mask = read_masked(job.picture, job.mask)
    wide = dilated(mask, dilation)
    write(restorer.restore(picture, wide), job.output)
    return float(wide.mean())


def check_output(path: Path) -> None:
    """Raise RestoringError unless pictures can be written to a file of such a name."""
    Image.init()
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise RestoringError(f"No picture can be written to {path.name}: its suffix is none of .png, .jpg, .webp, ...")


def write(picture: Pixels, path: Path) -> None:
    """Write a picture [h, w, 3] as the suffix says; the file gets its name when it is complete."""
    with draft(path) as file:
        Image.fromarray(picture).save(file, quality=QUALITY)


def _by_name(folder: Path, pictures: list[Path]) -> tuple[dict[str, Path], list[Skipped]]:
    """Name pictures by their paths without suffixes; of several with one name the first counts."""
    named: dict[str, Path] = {}
    skipped = []
    for path in pictures:
        first = named.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
        if first is not path:
            skipped.append(Skipped(path=path, reason=f"its output would be that of {first.name}"))
    return named, skipped


def _jobs(named: dict[str, Path], mask: Path | None, folder: Path | None, output: Path) -> Iterator[Job | Skipped]:
    """Give the jobs of pictures by name: each into a folder, or the only one into the output itself."""
    masks = _by_name(mask, files(mask))[0] if mask is not None and mask.is_dir() else None
    for name, picture in named.items():
        target = output if folder is None else folder / f"{name}.png"
        own = mask if masks is None else masks.get(name)
        if masks is not None and own is None:
            yield Skipped(path=picture, reason=f"{mask} has no mask of that name")
        elif target.resolve() in (picture.resolve(), own and own.resolve()):
            yield Skipped(path=picture, reason=f"it would be overwritten by its restored picture {target}")
        else:
            yield Job(picture=picture, mask=own, output=target)
