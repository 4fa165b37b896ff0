"""What a stranger reads when a step went wrong: what, where, which example, what was undone, what to change."""

import math
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from torchmend.facts.codes import Code
from torchmend.live.forensics.findings import Localisation
from torchmend.rules.texts import TEXTS

HOW_TO = 'pass capsules="FOLDER" to the guard, and the next is kept to be replayed'
"""What is said of the replay where nothing was kept."""


class Kind(StrEnum):
    """Sorts of changes, the smallest first."""

    SCALE = "scale"
    """A smaller factor of the GradScaler."""
    MODULE_IN_FLOAT32 = "module in float32"
    OTHER_TYPE = "other type"
    """Another type for the whole batch."""
    OPERATION = "operation"
    """An operation kept away from the edge of its domain."""
    EXAMPLES = "examples"
    """Examples left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change that was tried on the failing batch.

    Args:
        kind: What sort of change it is.
        change: What to change, as an order ("run encoder.fft in float32: torchmend.stabilise(...)").
        helped: Whether the batch went through with it.
    """

    kind: Kind
    change: str
    helped: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """One step that went wrong.

    Args:
        step: The step's number.
        what: What was seen, in words.
        undone: What was done about it, in words.
        found: Where it comes from.
        code: Of the cause, which `torchmend explain` has a page for; None where it is not known.
        remedies: Changes that were tried on the batch, up to the first that helped.
        rank: The process on which it happened; None where there is one alone.
        capsule: The folder that holds everything to replay it; empty if none was written.
        loss: As it was told; None if it was not.
        with_loss: Whether the loss code was run again.
    """

    step: int
    what: str
    undone: str
    found: Localisation
    code: Code | None = None
    remedies: tuple[Remedy, ...] = field(default=())
    rank: int | None = None
    capsule: str = ""
    loss: float | None = None
    with_loss: bool = False

    def __str__(self) -> str:
        """Say it in less than fifteen lines."""
        change = next((f"{each.change} (tried on this batch: it helps)" for each in self.remedies if each.helped), "")
        tried = [each.change for each in self.remedies if not each.helped]
        rows = [
            ("what", self.what),
            ("where", self.found.sentence),
            ("how", self.found.how),
            ("examples", self.found.which),
            ("note", self.found.note),
            ("undone", self.undone),
            ("cause", f"{TEXTS[self.code].title} (torchmend explain {self.code.value})" if self.code else ""),
            ("change", change or (TEXTS[self.code].remedy if self.code else "")),
            ("no help", "; ".join(tried)),
            ("replay", self._replay if self.capsule else HOW_TO),
        ]
        on = f" on rank {self.rank}" if self.rank is not None else ""
        return "\n".join([f"Incident at step {self.step}{on}", *(f"  {key:<9}{text}" for key, text in rows if text)])

    @property
    def _replay(self) -> str:
        loss = " --loss MODULE:NAME" if self.with_loss else ""
        return f"torchmend replay {shlex.quote(self.capsule)} --model MODULE:NAME{loss}"

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **self.found.data(),
            "remedies": [
                {"kind": each.kind.value, "change": each.change, "helped": each.helped} for each in self.remedies
            ],
            "code": self.code.value if self.code else None,
            "capsule": self.capsule,
            "loss_finite": None if self.loss is None else math.isfinite(self.loss),
        }
