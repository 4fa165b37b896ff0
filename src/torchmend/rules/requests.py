"""What the rules want measured of a tensor."""

from collections.abc import Hashable, Sequence

from torchmend.facts.tensors import TensorRef
from torchmend.measure.bits import Raw
from torchmend.measure.scan import Request
from torchmend.rules.weights import may_be_constant

LOOK_AT = 16
"""How many elements are looked at to see whether a matrix may be constant."""


def needs_counting(ref: TensorRef) -> bool:
    """Return whether the rules want a tensor counted in full even if the screen finds it finite."""
    return ref.role.is_statistic


def request_for(key: Hashable, aliases: Sequence[TensorRef], raw: Raw, *, count_all: bool = False) -> Request:
    """Ask for what the rules want of a tensor, which may have several names.

    Args:
        key: What to file the measure under.
        aliases: The tensor's names.
        raw: Its raw integers.
        count_all: Whether to count in full whatever the rules want.
    """
    first = aliases[0]
    return Request(
        key=key,
        raw=raw,
        dtype=first.element,
        full=count_all or any(needs_counting(r) or (may_be_constant(r) and looks_constant(raw)) for r in aliases),
        channels=any(ref.role.is_statistic for ref in aliases),
        nonnegative=first.role.is_nonnegative,
    )


def looks_constant(raw: Raw) -> bool:
    """Return whether the first elements are all equal, and not zero: only counting tells more."""
    first = raw.flat[:LOOK_AT]
    return bool(first[0] != 0 and (first == first[0]).all())
