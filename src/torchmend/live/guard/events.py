"""Decisions told: to the log, to a file of JSON lines, to TensorBoard, and kept for the summary."""

import json
import logging
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchmend.live.guard.decisions import Action, Decision

logger = logging.getLogger("torchmend.guard")

MOST_KEPT = 1000
"""Decisions that are kept; the counts go on."""


class Events:
    """Where decisions go.

    Args:
        path: A file that gets a line of JSON for each; appended to.
        writer: A TensorBoard `SummaryWriter`, or anything with its `add_scalar`.
        clock: Gives the seconds since 1970 for the file.
        observe_only: Whether decisions are only told.
    """

    def __init__(self, path: Path | None, writer: Any, clock: Callable[[], float], *, observe_only: bool) -> None:
        self.decisions: deque[Decision] = deque(maxlen=MOST_KEPT)
        self.counts: Counter[str] = Counter()
        self._path = path
        self._writer = writer
        self._clock = clock
        self._observe_only = observe_only

    def tell(self, decision: Decision) -> None:
        """Tell a decision everywhere."""
        self.decisions.append(decision)
        self.counts[decision.action.value] += 1
        incident = decision.incident
        by_scaler = decision.by_scaler and (incident is None or incident.found.backward)  # it finds its scale
        mild = decision.action is Action.LOG or by_scaler
        logger.log(logging.INFO if mild else logging.WARNING, "%s", told(decision, observe_only=self._observe_only))
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"time": self._clock(), **data(decision)}) + "\n")

    def plot(self, step: int, *, norm: float, loss: float | None, happened: bool) -> None:
        """Give TensorBoard the figures of a step, if there is a writer."""
        if self._writer is None:
            return
        self._writer.add_scalar("torchmend/gradient_norm", norm, step)
        self._writer.add_scalar("torchmend/refused", 0.0 if happened else 1.0, step)
        if loss is not None:
            self._writer.add_scalar("torchmend/loss", loss, step)


def data(decision: Decision) -> dict[str, Any]:
    """Turn a decision into plain data."""
    return {
        "step": decision.step,
        "action": decision.action.value,
        "origin": decision.origin,
        "rank": decision.rank,
        "by_scaler": decision.by_scaler,
        "findings": [{"code": each.code.value, "detail": each.detail or each.place} for each in decision.findings],
        "explanation": decision.explanation,
        "incident": decision.incident.data() if decision.incident is not None else None,
    }


def told(decision: Decision, *, observe_only: bool = False) -> str:
    """Say a decision in one line."""
    verb = f"would {decision.action.value}" if observe_only else decision.action.value
    why = "; ".join(f"{each.code.value} {each.detail or each.place or each.message}" for each in decision.findings)
    where = "" if decision.rank is None else f"on rank {decision.rank}, "
    line = f"step {decision.step}: {verb}{' (by the GradScaler)' if decision.by_scaler else ''}: {where}{why}"
    return f"{line}\n{decision.incident}" if decision.incident is not None else line
