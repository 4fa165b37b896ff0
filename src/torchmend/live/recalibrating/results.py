"""What a recalibration came to."""

from dataclasses import dataclass

from torchmend.facts.plans import Rung


@dataclass(frozen=True, slots=True, kw_only=True)
class Reestimate:
    """One tensor that was measured again.

    Args:
        name: Its name in the model.
        rung: Where the new values come from.
        elements: Which elements were written: flat indices.
        values: How many values a channel were measured.
        batches: How many batches count.
        left_out: The numbers of the batches that do not, from 0.
    """

    name: str
    rung: Rung
    elements: tuple[int, ...]
    values: int
    batches: int
    left_out: tuple[int, ...] = ()

    @property
    def layer(self) -> str:
        """The layer's name."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalibration:
    """What a recalibration came to.

    Args:
        tensors: What was measured again, in order of execution.
        uncalled: Layers that were to be, but that the forward pass does not call; they stay as they were.
        before: What `evaluate` returned before; None without it.
        after: What it returned afterwards.
    """

    tensors: tuple[Reestimate, ...] = ()
    uncalled: tuple[str, ...] = ()
    before: float | None = None
    after: float | None = None

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that were measured again, in order of execution."""
        return tuple(dict.fromkeys(each.layer for each in self.tensors))

    @property
    def left_out(self) -> tuple[int, ...]:
        """The numbers of the batches that some layer left out, from 0."""
        return tuple(sorted({number for each in self.tensors for number in each.left_out}))

    def summary(self) -> str:
        """Say in a few lines what was done."""
        lines = ["Nothing was re-estimated."]
        if self.tensors:
            batches = max(each.batches for each in self.tensors)
            elements = sum(len(each.elements) for each in self.tensors)
            written = f"{_counted(elements, 'element')} of {_counted(len(self.tensors), 'tensor')}"
            layers = _counted(len(self.layers), "layer")
            lines = [f"{layers} {self.tensors[0].rung} ({_counted(batches, 'batch')}): {written}"]
        for number in self.left_out:
            where = dict.fromkeys(each.layer for each in self.tensors if number in each.left_out)
            lines.append(f"batch {number} left out at {_some(list(where))}")
        if self.uncalled:
            lines.append(f"not called by the forward pass, and left as it was: {_some(list(self.uncalled))}")
        if self.before is not None and self.after is not None:
            lines.append(f"metric {self.before:.6g} -> {self.after:.6g}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Recalibration: {'; '.join(self.summary().splitlines())}>"


def _counted(count: int, noun: str) -> str:
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def _some(names: list[str]) -> str:
    return ", ".join(name or "the model itself" for name in names[:3]) + (
        f" and {len(names) - 3} more layers" if len(names) > 3 else ""
    )
