"""What checkpoints that belong together are called: one name again and again, or a pattern with the step."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchmend.facts.errors import UserError

_STEP = re.compile(r"\{step(?::(0?\d{1,2}d?|d))?\}")
_LIKE_STEP = re.compile(r"\{step[:!]")
_AROUND = re.compile(r"[-_.=]*(?:step|iter|epoch)?[-_.=]*\{step[^}]*\}", re.IGNORECASE)
"""The step in a pattern, with the word and the separators before it."""

BEST = "_best"
HIDDEN = ".torchmend"
"""The folder, beside checkpoints, for what no search for checkpoints should find."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The checkpoints that are saved under one name or pattern in one folder.

    Args:
        folder: Where they are.
        name: The name, or the pattern with `{step}`.
    """

    folder: Path
    name: str

    @classmethod
    def of(cls, path: Path) -> "Family":
        """Return the family of a path whose name may have `{step}` in it.

        Raises:
            UserError: There is no name, the step is in the name of a folder, or its format is none for whole numbers.
        """
        if not path.name:
            raise UserError(f"The path {str(path)!r} has no name of a file. Give one, such as {path / 'last.pt'}.")
        if _STEP.search(str(path.parent)):
            raise UserError(f"{path} has the step in the name of a folder. Put {{step}} into the file's own name.")
        if _STEP.search(path.name) is None and _LIKE_STEP.search(path.name):
            raise UserError(f"{path} has the step in a form that is not known. Write {{step}} or {{step:06d}}.")
        return cls(folder=path.parent, name=path.name)

    @property
    def has_step(self) -> bool:
        """Whether its names have the step in them."""
        return _STEP.search(self.name) is not None

    def target(self, step: int | None) -> Path:
        """Return the path to save to.

        Raises:
            UserError: The name needs a step, and there is none.
        """
        if not self.has_step:
            return self.folder / self.name
        if step is None:
            raise UserError(
                f"{self.name} needs the step, and no usual name in the state has one. Pass step=..., a whole number."
            )
        return self.folder / _STEP.sub(lambda found: format(step, found[1] or ""), self.name)

    @property
    def best(self) -> Path:
        """Where the best one is kept: `<stem>_best<suffix>`, without the step."""
        path = Path(_AROUND.sub("", self.name))
        if not path.stem or path.stem.startswith("."):  # nothing but the step, and perhaps a suffix
            return self.folder / f"best{Path(self.name).suffix}"
        return self.folder / f"{path.stem}{BEST}{path.suffix}"

    @property
    def quarantine(self) -> Path:
        """The folder for what is corrupted."""
        return self.folder / HIDDEN / "quarantine"


def numbered(path: Path, start: int) -> Iterator[Path]:
    """Yield `<stem>.<number><suffix>` beside a path, from a number on."""
    while True:
        yield path.with_name(f"{path.stem}.{start}{path.suffix}")
        start += 1
