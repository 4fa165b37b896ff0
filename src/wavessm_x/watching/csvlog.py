"""The log file of a training: a line of numbers every few iterations, that survives crashes and resumes."""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from wavessm_x.config import ConfigError

PARTS = ("loss_l1", "loss_perceptual", "loss_ssim", "loss_edge", "loss_freq")
"""The columns of the terms of the loss, before they are weighed."""

COLUMNS = ("iteration", "timestamp", "total_loss", "lr", "grad_norm", "iter_time", "gpu_mem_mb", *PARTS)
"""The columns in their order; `timestamp` is ISO 8601 in UTC, `iter_time` in seconds."""


class LogError(ConfigError):
    """A log file that cannot be gone on with."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class CsvLog:
    """Write lines to a log file, each at once, so that a crash loses none.

    Args:
        path: The file; its folder is made.
        resume_at: Steps that the checkpoint has behind it. What the file holds of later ones is cut off, with a line
            that a crash left half-written, and lines are added to the rest. None begins a new file.
        clock: Gives the timestamps.

    Raises:
        LogError: A new file is to begin where one with lines stands, or the file has other columns.
    """

    def __init__(self, path: Path, resume_at: int | None = None, clock: Callable[[], str] = _now) -> None:
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size:
            if resume_at is None:
                raise LogError(f"{path} has the log of another training in it. Resume that one, or name another file.")
            rows = [row for row in _rows(path) if int(row[0]) <= resume_at]
        else:
            rows = []
        _replace(path, "".join(map(_as_text, [COLUMNS, *rows])))
        self._file = path.open("a", newline="", encoding="utf-8")

    def write(self, iteration: int, values: Mapping[str, float], parts: Mapping[str, float]) -> None:
        """Add a line.

        Args:
            iteration: Steps attempted so far, this one with them.
            values: total_loss, lr, grad_norm, iter_time and gpu_mem_mb.
            parts: The terms of the loss by their names, such as l1.

        Raises:
            ValueError: A value is missing, or there is one that has no column.
        """
        named = {f"loss_{name}": value for name, value in parts.items()}
        line: dict[str, float | str] = {"iteration": iteration, "timestamp": self._clock(), **values, **named}
        if set(line) != set(COLUMNS):
            odd = ", ".join(sorted(set(line) ^ set(COLUMNS)))
            raise ValueError(
                f"A line of the log has exactly the columns {', '.join(COLUMNS)}; missing or unknown: {odd}."
            )
        self._file.write(_as_text([line[name] for name in COLUMNS]))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        """Return the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def read(path: Path) -> dict[str, list[float]]:
    """Return the columns of a log file but its timestamps; a last line that was not written to its end is left out.

    Raises:
        LogError: The file has other columns, or a line that is not the last is damaged.
    """
    rows = _rows(path)
    return {name: [float(row[at]) for row in rows] for at, name in enumerate(COLUMNS) if name != "timestamp"}


def _rows(path: Path) -> list[list[str]]:
    """Return the fields of all whole lines after the header, checked to be numbers where they must be."""
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = list(csv.reader(io.StringIO(text)))
    if not rows or tuple(rows[0]) != COLUMNS:
        found = ",".join(rows[0]) if rows else "nothing"
        raise LogError(f"{path} begins with {found[:200]!r}; a log begins with {','.join(COLUMNS)}. Name another file.")
    if not text.endswith("\n"):
        rows.pop()
    for number, row in enumerate(rows[1:], start=2):
        try:
            int(row[0])
            [float(value) for _, value in zip(COLUMNS[2:], row[2:], strict=True)]
        except (ValueError, IndexError) as error:
            raise LogError(f"{path}, line {number} is damaged ({error}). Remove it, or name another file.") from error
    return rows[1:]


def _as_text(fields: Iterable[float | str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    draft = path.with_name(f"{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
