"""Checkpoints of several files: the joining of their parts."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError
from torchmend.facts.paths import is_inside
from torchmend.formats.contents import Contents, Oddity, first_imports
from torchmend.formats.mapped import MappedFile
from torchmend.formats.names import is_checkpoint_name
from torchmend.formats.protocols import ReadFile
from torchmend.formats.sections import moved


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file, or a section of one, as a part of a checkpoint.

    Args:
        contents: What it holds.
        prefix: Path components that its names get in the whole.
        base: Where the section starts in its file.
    """

    contents: Contents
    prefix: tuple[str | int, ...] = ()
    base: int = 0


def joined_contents(
    parts: Iterable[Part],
    *,
    format: str,  # noqa: A002 - the field's name
    folder: Path,
    problems: Sequence[Oddity] = (),
) -> Contents:
    """Join the contents of parts to those of a whole.

    Args:
        parts: In the order in which their tensors are to be listed.
        format: What kind of checkpoint the whole is.
        folder: Where its files lie.
        problems: What could not be read.

    Raises:
        FileError: There are problems and no parts.
    """
    numbers: dict[int, int] = {}
    files: list[MappedFile] = []
    whole = Contents(files=(), format=format, folder=folder, tensors=())
    placed: list[Contents] = []
    for part in parts:
        file = part.contents.files[0]
        if id(file) not in numbers:
            numbers[id(file)] = len(files)
            files.append(file)
        placed.append(moved(part.contents, file=numbers[id(file)], base=part.base, prefix=part.prefix))
    if problems and not placed:
        raise FileError(problems[0].code, f"None of its files can be read. {problems[0].detail}", "Use an earlier one.")
    return replace(
        whole,
        files=tuple(files),
        tensors=tuple(tensor for each in placed for tensor in each.tensors),
        scalars=tuple(scalar for each in placed for scalar in each.scalars),
        optimizers={container: keys for each in placed for container, keys in each.optimizers.items()},
        records=tuple(record for each in placed for record in each.records),
        oddities=(*(oddity for each in placed for oddity in each.oddities), *problems),
        imports=first_imports(wanted for each in placed for wanted in each.imports),
    )


def inside(folder: Path, name: str, named_by: str) -> Path:
    """Return the path of a file that an index names.

    Raises:
        FileError: The name leads out of the folder.
    """
    if not is_inside(name):
        raise FileError(
            Code.OUT_OF_BOUNDS,
            f"{named_by} names a file outside its folder: {name!r}.",
            "No tool writes that; do not load this checkpoint with anything else either.",
        )
    return folder / name


def read_all(paths: Iterable[Path], read_file: ReadFile) -> tuple[dict[Path, Contents], list[Oddity]]:
    """Read several files; return what they hold, and what could not be read."""
    found: dict[Path, Contents] = {}
    problems: list[Oddity] = []
    for path in paths:
        try:
            found[path] = read_file(path)
        except FileError as error:
            problems.append(Oddity(code=error.code, detail=f"{path.name}: {error.message}"))
    return found, problems


def beside(folder: Path, read_file: ReadFile, known: Collection[Path]) -> tuple[list[Part], list[Oddity]]:
    """Read the checkpoint files that lie in a folder beside those that are known: each a part under its own name.

    Returns:
        The parts, and what could not be read.
    """
    others = [p for p in sorted(folder.iterdir()) if p not in known and is_checkpoint_name(p.name) and p.is_file()]
    found, problems = read_all(others, read_file)
    return [Part(contents=contents, prefix=(path.stem,)) for path, contents in found.items()], problems
