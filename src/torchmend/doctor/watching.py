"""A folder that a trainer writes to: each checkpoint is judged once it stands still, and the healthy ones are kept."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.doctor.pins import Pins, Signature, move_to_quarantine, signature_of
from torchmend.facts.errors import SourceChangedError, UserError
from torchmend.facts.findings import Diagnosis

SETTLED = 2.0
"""Seconds for which a file must not change before it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """One checkpoint that was judged.

    Args:
        path: Where it was found.
        diagnosis: What was found in it.
        pinned: The copy that is kept, if it is among the newest healthy ones.
        quarantined: Where it was moved, if it was.
        problem: Why it could not be kept or moved; empty if it could.
    """

    path: Path
    diagnosis: Diagnosis
    pinned: Path | None = None
    quarantined: Path | None = None
    problem: str = ""


@dataclass(slots=True)
class Watcher:
    """What is known of a folder from one look to the next. Clocks are arguments.

    Args:
        pins: The folder, and how many healthy checkpoints of it are kept.
        quarantine: Whether corrupted ones are moved aside.
        settled: Seconds for which a checkpoint must not change before it is read.
    """

    pins: Pins
    quarantine: bool = False
    settled: float = SETTLED
    _judged: dict[Path, Signature] = field(default_factory=dict)
    _waiting: dict[Path, tuple[Signature, float]] = field(default_factory=dict)

    @property
    def is_waiting(self) -> bool:
        """Whether something was seen that did not stand still yet."""
        return bool(self._waiting)

    def look(self, clock: float, wall: float) -> Iterator[Sighting]:
        """Judge what is new or has changed and stands still, the newest first.

        Args:
            clock: Seconds of a clock that never goes back.
            wall: Seconds of the epoch, for the age of files that are seen for the first time.
        """
        found = {path: state for path in self._checkpoints() if (state := signature_of(path)) is not None}
        for known in (self._judged, self._waiting):
            for gone in known.keys() - found.keys():
                del known[gone]
        changed = {path: state for path, state in found.items() if self._judged.get(path) != state}
        for path in sorted(changed, key=lambda each: (-_last_change(changed[each]), each)):
            if self._stands_still(path, changed[path], clock, wall):
                sighting = self._judge(path, changed[path])
                if sighting is not None:
                    yield sighting

    def _checkpoints(self) -> list[Path]:
        try:
            return checkpoint_paths(self.pins.root)
        except UserError:  # none yet
            return []

    def _stands_still(self, path: Path, state: Signature, clock: float, wall: float) -> bool:
        before, since = self._waiting.get(path, (None, clock))
        if before is None and wall - _last_change(state) / 1e9 >= self.settled:
            return True
        if before != state:
            self._waiting[path] = state, clock
            return self.settled <= 0
        return clock - since >= self.settled

    def _judge(self, path: Path, state: Signature) -> Sighting | None:
        """Diagnose a checkpoint, and keep or move it; None if it changed meanwhile, and will be looked at again."""
        try:
            diagnosis = diagnose_file(path)
        except SourceChangedError:
            return None
        if signature_of(path) != state:
            return None
        self._waiting.pop(path, None)
        self._judged[path] = state
        try:
            if diagnosis.healthy and diagnosis.refs:
                return Sighting(path=path, diagnosis=diagnosis, pinned=self.pins.pin(path, diagnosis, state))
            if self.quarantine and diagnosis.checked and diagnosis.damaged and len(state) == 1 and path.is_file():
                moved = move_to_quarantine(path, diagnosis, state)
                return Sighting(path=path, diagnosis=diagnosis, quarantined=moved)
        except SourceChangedError:
            del self._judged[path]
            return None
        except OSError as error:
            return Sighting(path=path, diagnosis=diagnosis, problem=error.strerror or str(error))
        return Sighting(path=path, diagnosis=diagnosis)


def _last_change(state: Signature) -> int:
    return max(mtime_ns for _, _, mtime_ns in state)
