"""What the rules want measured of a tensor."""

from collections.abc import Hashable, Sequence

from torchmend.facts.tensors import TensorRef
from torchmend.measure.bits import Raw
from torchmend.measure.scan import Request
from torchmend.rules.weights import may_be_constant


def needs_counting(ref: TensorRef) -> bool:
    """Return whether the rules want a tensor counted in full even if the screen finds it finite."""
    return ref.role.is_statistic


DULL_BELOW = 32768.0
"""Half of what float16 holds: no rule asks for the largest magnitude of a weight that stays below."""


def request_for(
    key: Hashable, aliases: Sequence[TensorRef], raw: Raw, *, count_all: bool = False, exact: bool = True
) -> Request:
    """Ask for what the rules want of a tensor, which may have several names.

    Args:
        key: What to file the measure under.
        aliases: The tensor's names.
        raw: Its raw integers.
        count_all: Whether to count in full whatever the rules want.
        exact: Whether the largest magnitude is wanted where no rule asks for it.
    """
    first = aliases[0]
    return Request(
        key=key,
        raw=raw,
        dtype=first.element,
        full=count_all or any(needs_counting(ref) for ref in aliases),
        full_if_repeating=any(may_be_constant(ref) for ref in aliases),
        channels=any(ref.role.is_statistic for ref in aliases),
        nonnegative=first.role.is_nonnegative,
        dull_below=0.0 if exact else DULL_BELOW,
    )
