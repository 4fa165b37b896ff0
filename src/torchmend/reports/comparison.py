"""What changed between two checkpoints, as data, and the sentence that sums it up."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports.wording import counted


class Kind(StrEnum):
    """What became of a tensor between A and B."""

    BROKE = "broke"
    """Damaged in B, and at least one damaged element was sound in A, or A does not have it."""
    HEALED = "healed"
    """Damaged in A, sound in B."""
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    """Bit for bit the same."""
    RESHAPED = "shape or dtype differs"
    ADDED = "added"
    REMOVED = "removed"
    NOT_COMPARED = "not compared"
    """Its elements cannot be had in one of the files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """How far the elements of two tensors of one shape and type lie apart. Pieces add up.

    The sums and the maximum are over elements that are sound (finite; not negative where that is damage) in
    both, in float64. A complex element counts once in the counts, and with both parts in the sums.

    Args:
        numel: Elements in all.
        broke: Elements sound in A and damaged in B.
        healed: Elements damaged in A and sound in B.
        squared_before: Sum of a squared.
        squared_delta: Sum of (b - a) squared.
        largest: The largest |b - a|.
    """

    numel: int = 0
    broke: int = 0
    healed: int = 0
    squared_before: float = 0.0
    squared_delta: float = 0.0
    largest: float = 0.0

    def __add__(self, other: "Delta") -> "Delta":
        """Combine two disjoint pieces."""
        return Delta(
            numel=self.numel + other.numel,
            broke=self.broke + other.broke,
            healed=self.healed + other.healed,
            squared_before=self.squared_before + other.squared_before,
            squared_delta=self.squared_delta + other.squared_delta,
            largest=max(self.largest, other.largest),
        )

    @property
    def relative(self) -> float:
        """The relative change ||b - a|| / ||a||: 0 without a change, Inf from zeros or beyond float64."""
        if self.squared_delta == 0:
            return 0.0
        ratio = self.squared_delta / self.squared_before if self.squared_before else math.inf
        return math.sqrt(ratio) if not math.isnan(ratio) else math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorChange:
    """One tensor, before and after.

    Args:
        kind: What became of it.
        before: In A; None when it was added.
        after: In B; None when it was removed.
        delta: How far it moved; None when it is unchanged or could not be compared number by number.
        codes: The errors that B has on it and, where it healed, those that A had.
        still_damaged: Whether it is damaged in both files.
    """

    kind: Kind
    before: TensorRef | None
    after: TensorRef | None
    delta: Delta | None = None
    codes: tuple[Code, ...] = ()
    still_damaged: bool = False

    @property
    def ref(self) -> TensorRef:
        """The tensor in B, or in A when B does not have it."""
        ref = self.after or self.before
        assert ref is not None
        return ref

    @property
    def relative(self) -> float:
        """The relative change; 0 where there is none to give."""
        return self.delta.relative if self.delta else 0.0

    @property
    def layer(self) -> str:
        """What it is listed under: its prefix, or its parameter's for a moment; the container for a bare name."""
        if self.ref.role.is_optimizer and self.ref.param:
            return self.ref.param.rpartition(".")[0]
        return self.ref.prefix or self.ref.container


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """How far the running statistics of one normalisation layer moved, over its channels.

    Channels that are damaged in either file are left out.

    Args:
        container: B's container.
        layer: The layer's prefix in B.
        averaged: Whether it belongs to an averaged copy.
        channels: Channels looked at.
        shift: The largest |mean_b - mean_a| / sqrt(var_a), in standard deviations.
        typical_shift: Its median.
        widest: The largest sqrt(var_b / var_a).
        narrowest: The smallest.
        channel: Where the largest shift is.
    """

    container: str
    layer: str
    averaged: bool
    channels: int
    shift: float
    typical_shift: float
    widest: float
    narrowest: float
    channel: int

    @property
    def size(self) -> float:
        """One figure to sort by: the shift, or how far the width is from 1 in either direction."""
        narrow = 1 / self.narrowest if self.narrowest > 0 else math.inf
        return max(self.shift, self.widest - 1, narrow - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalarChange:
    """A number or text among the metadata that differs; None where a file does not have it."""

    path: tuple[str | int, ...]
    before: Scalar | None
    after: Scalar | None
    broke: bool = False

    @property
    def dotted(self) -> str:
        """The path joined by dots."""
        return ".".join(map(str, self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Everything that was learned about two files side by side.

    Args:
        before: The diagnosis of A.
        after: The diagnosis of B.
        changes: Every tensor of either, in B's order, then those that only A has.
        drifts: Normalisation layers whose statistics moved, furthest first.
        scalars: Metadata that differ, in B's order.
        outside: Tensors that broke and were not asked for.
    """

    before: Diagnosis
    after: Diagnosis
    changes: tuple[TensorChange, ...] = ()
    drifts: tuple[Drift, ...] = ()
    scalars: tuple[ScalarChange, ...] = ()
    outside: int = 0

    def of(self, *kinds: Kind) -> tuple[TensorChange, ...]:
        """Return the changes of some kinds, in order."""
        return tuple(change for change in self.changes if change.kind in kinds)

    @property
    def checked(self) -> bool:
        """Whether both files could be read in full."""
        return self.before.checked and self.after.checked

    @property
    def broke(self) -> bool:
        """Whether something that was sound in A is damaged in B."""
        return any(change.kind is Kind.BROKE for change in self.changes) or any(each.broke for each in self.scalars)


def by_layer(changes: Iterable[TensorChange]) -> list[tuple[str, list[TensorChange]]]:
    """Group changes by layer, the layer with the largest relative change first; inside it the same."""
    groups: dict[tuple[str, str], list[TensorChange]] = {}
    for change in changes:
        groups.setdefault((change.ref.container, change.layer), []).append(change)
    for members in groups.values():
        members.sort(key=lambda change: -change.relative)
    ordered = sorted(groups.items(), key=lambda item: -item[1][0].relative)
    return [(layer, members) for (_, layer), members in ordered]


def figures(comparison: Comparison) -> str:
    """Write the closing counts in one line."""
    kinds = (Kind.UNCHANGED, Kind.CHANGED, Kind.BROKE, Kind.HEALED)
    parts = [f"{len(comparison.of(kind)):,} {kind.value}" for kind in kinds]
    others = {Kind.ADDED: "added", Kind.REMOVED: "removed", Kind.RESHAPED: "of another shape or dtype"}
    others[Kind.NOT_COMPARED] = "not compared"
    parts += [f"{number:,} {text}" for kind, text in others.items() if (number := len(comparison.of(kind)))]
    return ", ".join(parts)


def sentence(comparison: Comparison) -> str:
    """Say in one plain sentence what happened between A and B."""
    broke = comparison.of(Kind.BROKE)
    scalars = [each.dotted for each in comparison.scalars if each.broke]
    if broke:
        also = f"; so did {', '.join(scalars[:3])}" if scalars else ""
        first = first_to_break(broke)
        return (
            f"Between A and B, {counted(len(broke), 'tensor')} broke, first in {first.layer} ({_extent(broke)}){also}."
        )
    if scalars:
        return f"Between A and B no tensor broke, but {', '.join(scalars[:3])} did."
    if healed := comparison.of(Kind.HEALED):
        left = sum(change.still_damaged for change in comparison.changes)
        rest = f"; {counted(left, 'tensor')} stayed damaged" if left else " and nothing broke"
        return f"Between A and B, {counted(len(healed), 'tensor')} healed, first in {healed[0].layer}{rest}."
    damaged = sum(change.still_damaged for change in comparison.changes)
    if damaged:
        return f"Nothing broke between A and B, but {counted(damaged, 'tensor')} {_are(damaged)} damaged in both."
    same = all(change.kind is Kind.UNCHANGED for change in comparison.changes)
    if comparison.changes and same:
        return "Every tensor is bit for bit the same." + _scalars_differ(comparison)
    return "Nothing broke between A and B."


def first_to_break(broke: Iterable[TensorChange]) -> TensorChange:
    """Return the likeliest origin: statistics before weights before optimizer state, then the model's own order."""
    return min(broke, key=lambda c: (c.ref.averaged, not c.ref.role.is_statistic, c.ref.role.is_optimizer))


def _extent(broke: Iterable[TensorChange]) -> str:
    refs = [change.ref for change in broke]
    statistics = sum(ref.role.is_statistic for ref in refs)
    learned = sum(ref.role.is_learned for ref in refs)
    optimizer = sum(ref.role.is_optimizer for ref in refs)
    if statistics == len(refs):
        return "running statistics only: the weights are fine"
    if optimizer == len(refs):
        return "optimizer state only: the weights are fine"
    parts = [
        counted(number, *nouns)
        for number, nouns in (
            (learned, ("weight or bias", "weights and biases")),
            (statistics, ("running statistic",)),
            (optimizer, ("optimizer tensor",)),
            (len(refs) - learned - statistics - optimizer, ("other tensor",)),
        )
        if number
    ]
    return ", ".join(parts) + ("" if learned else ": the weights are fine")


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _scalars_differ(comparison: Comparison) -> str:
    number = len(comparison.scalars)
    return f" {counted(number, 'number or text', 'numbers and texts')} beside them differ." if number else ""


def errors_of(diagnosis: Diagnosis) -> tuple[dict[TensorRef, tuple[Code, ...]], set[tuple[str | int, ...]]]:
    """Return the codes of the errors of every damaged tensor, and the paths of damaged scalars."""
    tensors: dict[TensorRef, tuple[Code, ...]] = {}
    scalars: set[tuple[str | int, ...]] = set()
    for finding in diagnosis.findings:
        if finding.severity is not Severity.ERROR or finding.code.means_unchecked:
            continue
        if finding.ref is not None:
            tensors[finding.ref] = (*tensors.get(finding.ref, ()), finding.code)
        elif finding.scalar is not None:
            scalars.add(finding.scalar.path)
    return tensors, scalars


def scaled(delta: Delta, repeats: int) -> Delta:
    """Count every element as often as an expanded tensor repeats it; the relative change stays."""
    if repeats == 1:
        return delta
    return replace(
        delta,
        numel=delta.numel * repeats,
        broke=delta.broke * repeats,
        healed=delta.healed * repeats,
        squared_before=delta.squared_before * repeats,
        squared_delta=delta.squared_delta * repeats,
    )
