"""Plans for optimizer state: damaged elements to zero, or everything to where a fresh optimizer starts."""

from collections.abc import Container

from torchmend.facts.findings import Measure
from torchmend.facts.plans import Edit, FillAll, FillDamaged, Refusal, Rung
from torchmend.facts.sources import TensorSource
from torchmend.facts.tensors import Role, Scalar, TensorRef

_FRESH = {"mu_product": 1.0}
"""Where a fresh optimizer starts something that is no moment and no step counter: NAdam's product of momenta."""

_NOT_ZERO = {"mu", "eta", "step_size"}
"""ASGD and Rprop start these at values that depend on the learning rate."""


class MomentPlanner:
    """Plans edits of moments; first moments restart with their second moments.

    Args:
        source: Where the moments are.
        pinned: What cannot be written.
    """

    def __init__(self, source: TensorSource, pinned: Container[TensorRef | Scalar]) -> None:
        self.edits: dict[TensorRef, Edit] = {}
        self._first = {
            (ref.container, ref.prefix): ref
            for ref in source.refs
            if ref.role is Role.FIRST_MOMENT and ref not in pinned
        }

    def zero(self, ref: TensorRef, measure: Measure) -> None:
        """Plan zero for a moment's damaged elements, and for the first moment beside a second one."""
        count = measure.nonfinite
        if ref.role.is_nonnegative:
            count += (measure.negative or 0) - measure.neg_inf
        reason = "zero is where the optimizer starts; it rebuilds the moment within tens of steps"
        self._zero(ref, count, reason)
        partner = self._first.get((ref.container, ref.prefix))
        if ref.role is Role.SECOND_MOMENT and partner is not None and partner.shape == ref.shape:
            # m over the square root of a v of zero would be a huge step.
            reason = "starts afresh with its second moment: momentum over a second moment of zero would be a huge step"
            self._zero(partner, count, reason, also=ref)

    def _zero(self, ref: TensorRef, count: int, reason: str, also: TensorRef | None = None) -> None:
        earlier = self.edits.get(ref)
        others = earlier.change.also if earlier and isinstance(earlier.change, FillDamaged) else ()
        if also is not None:
            others = tuple(dict.fromkeys((*others, also)))
        self.edits[ref] = Edit(
            ref=ref,
            change=FillDamaged(value=0.0, also=others),
            count=max(count, earlier.count if earlier else 0),
            rung=Rung.ZEROED,
            reason=reason,
        )


def plan_reset(source: TensorSource, pinned: Container[TensorRef | Scalar]) -> tuple[list[Edit], list[Refusal]]:
    """Plan a fresh start of every optimizer: moments, step counters and what else is known to begin somewhere.

    Args:
        source: With optimizer state.
        pinned: What cannot be written.
    """
    edits: list[Edit] = []
    refused: list[Refusal] = []
    reason = "as in an optimizer that has not taken a step; it finds its moments again within some hundreds of steps"
    containers = set()
    for ref in source.refs:
        if not ref.role.is_optimizer:
            continue
        containers.add(ref.container)
        known = ref.role is not Role.OPTIMIZER_STATE or ref.leaf in _FRESH
        if ref in pinned or not source.is_readable(ref):
            refused.append(Refusal(about=ref, reason="it stands inside the pickle, where nothing is patched"))
        elif not known or ref.leaf in _NOT_ZERO:
            refused.append(Refusal(about=ref, reason="where a fresh optimizer of this kind starts it is not known"))
        else:
            change = FillAll(value=_FRESH.get(ref.leaf, 0.0))
            edits.append(Edit(ref=ref, change=change, count=ref.numel, rung=Rung.FRESH, reason=reason))
    for scalar in source.scalars:
        is_step = len(scalar.path) > 2 and scalar.path[-1] == "step" and scalar.path[-3] == "state"
        if is_step and scalar.value and ".".join(map(str, scalar.path[:-3])) in containers:
            refused.append(Refusal(about=scalar, reason="a whole number inside the pickle, which is not patched"))
    return edits, refused
