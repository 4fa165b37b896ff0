"""What a stranger reads when a step went wrong: what, where, which example, what was undone, what to change."""

import math
from dataclasses import dataclass, field
from typing import Any

from torchmend.live.forensics.findings import Localisation


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """A change that was tried on the failing batch.

    Args:
        change: What to change, as an order ("run encoder.fft in float32: torchmend.stabilise(...)").
        helped: Whether the batch went through with it.
    """

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
        remedies: Changes that were tried on the batch, those that helped first.
        advice: What to change where nothing was tried, in words; empty if nothing is known.
        rank: The process on which it happened; None where there is one alone.
        capsule: The folder that holds everything to replay it; empty if none was written.
        loss: As it was told; None if it was not.
    """

    step: int
    what: str
    undone: str
    found: Localisation
    remedies: tuple[Remedy, ...] = field(default=())
    advice: str = ""
    rank: int | None = None
    capsule: str = ""
    loss: float | None = None

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
            ("change", change or self.advice),
            ("no help", "" if change else "; ".join(tried)),
            ("replay", f"torchmend replay {self.capsule}" if self.capsule else ""),
        ]
        on = f" on rank {self.rank}" if self.rank is not None else ""
        return "\n".join([f"Incident at step {self.step}{on}", *(f"  {key:<9}{text}" for key, text in rows if text)])

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            **self.found.data(),
            "remedies": [{"change": each.change, "helped": each.helped} for each in self.remedies],
            "advice": self.advice,
            "capsule": self.capsule,
            "loss_finite": self.loss is None or math.isfinite(self.loss),
        }
