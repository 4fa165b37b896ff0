"""What the rules look at: a source's measures, and what follows from names and shapes alone."""

from collections import defaultdict
from collections.abc import Iterator
from functools import cached_property

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding, Measure
from torchmend.facts.sources import TensorSource, Vector
from torchmend.facts.tensors import NormLayer, Role, Scalar, TensorRef
from torchmend.rules.layers import norm_layers
from torchmend.rules.texts import TEXTS


class Evidence:
    """A source as the rules see it.

    Args:
        source: Measured tensors and scalars.
    """

    def __init__(self, source: TensorSource) -> None:
        self.source = source
        self.refs = source.refs
        self.measures = source.measures
        self.scalars = source.scalars

    def measured(self, *roles: Role) -> Iterator[tuple[TensorRef, Measure]]:
        """Yield the measured tensors that have one of the roles; all without any."""
        for ref in self.refs:
            if (not roles or ref.role in roles) and (measure := self.measures.get(ref)) is not None:
                yield ref, measure

    def vector(self, ref: TensorRef) -> Vector:
        """Fetch a short tensor as float64."""
        return self.source.vector(ref)

    def number(self, ref: TensorRef) -> float | None:
        """Fetch the number that a tensor of one element holds; None if it is no real number or cannot be read."""
        if ref.numel != 1 or not ref.element.is_real or not self.source.is_readable(ref):
            return None
        return float(self.source.vector(ref)[0])

    def is_sound(self, ref: TensorRef) -> bool:
        """Return whether a tensor was measured and nothing in it is damaged."""
        measure = self.measures.get(ref)
        return measure is not None and not is_damaged(ref, measure)

    @cached_property
    def layers(self) -> tuple[NormLayer, ...]:
        """Every normalisation layer."""
        return norm_layers(self.refs)

    @cached_property
    def by_path(self) -> dict[str, TensorRef]:
        """Tensors by their dotted path."""
        return {ref.path: ref for ref in self.refs}

    @cached_property
    def averaged_of(self) -> dict[str, list[TensorRef]]:
        """For the path of a live tensor, its averaged copies."""
        return self._copies(master=False)

    @cached_property
    def masters_of(self) -> dict[str, list[TensorRef]]:
        """For the path of a live tensor, the wider copies that an optimizer keeps of it."""
        return self._copies(master=True)

    def _copies(self, *, master: bool) -> dict[str, list[TensorRef]]:
        copies: dict[str, list[TensorRef]] = defaultdict(list)
        for ref in self.refs:
            if ref.is_copy and ref.master is master and ref.param is not None:
                copies[ref.param].append(ref)
        return copies

    def live_twin(self, ref: TensorRef) -> TensorRef | None:
        """Return the live tensor that a copy belongs to."""
        return self.by_path.get(ref.param) if ref.is_copy and ref.param is not None else None


def is_damaged(ref: TensorRef, measure: Measure) -> bool:
    """Return whether a tensor holds elements that are not finite or, where that is damage, below zero."""
    return bool(measure.nonfinite or (ref.role.is_nonnegative and measure.negative))


def finding(
    code: Code,
    severity: Severity,
    about: TensorRef | Scalar | None = None,
    *,
    measure: Measure | None = None,
    detail: str = "",
) -> Finding:
    """Make a finding with the texts of its code."""
    text = TEXTS[code]
    return Finding(
        code=code,
        severity=severity,
        message=text.consequence,
        remedy=text.remedy,
        ref=about if isinstance(about, TensorRef) else None,
        scalar=about if isinstance(about, Scalar) else None,
        measure=measure,
        detail=detail,
    )
