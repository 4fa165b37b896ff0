"""Changes that might have helped, tried on the failing batch itself."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import torch

from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.incidents import Kind, Remedy
from torchmend.live.forensics.localising import locate, run_again
from torchmend.live.forensics.patches import patch_for
from torchmend.live.forensics.rerun import Rerun
from torchmend.live.stabilising.float32 import in_float32

HALVES = ("float16", "bfloat16", "complex32")

MOST_MODULES = 4
"""Modules that are put into float32 together."""

Make = Callable[[Rerun], tuple[Rerun, AbstractContextManager[object] | None]]
"""Makes a change: returns another batch, and what surrounds its run."""


def tried(rerun: Rerun, found: Localisation, enough: Callable[[], bool] = lambda: False) -> tuple[Remedy, ...]:
    """Try changes on a batch until one helps, the smallest first.

    Args:
        rerun: The batch.
        found: Where it fails.
        enough: Asked between two changes whether to stop there.

    Returns:
        What was tried, in order; the last one helped, if any did.
    """
    done: list[Remedy] = []
    for remedy in _remedies(rerun, found):
        done.append(remedy)
        if remedy.helped or enough():
            break
    return tuple(done)


def _remedies(rerun: Rerun, found: Localisation) -> Iterator[Remedy]:
    """Try changes that fit, each when it is asked for."""

    def remedy(kind: Kind, change: str, make: Make) -> Remedy:
        return Remedy(kind=kind, change=change, helped=_helps(rerun, make, found))

    if rerun.scale > 1 and found.backward:
        lower = f"let the GradScaler lower its factor of {rerun.scale:g}"
        yield remedy(Kind.SCALE, lower, lambda given: (given.with_scale(1.0), None))
    if found.dtype in HALVES:
        if found.cause is Cause.MODULE:
            yield _in_float32(rerun, found)
        types = {each.autocast.dtype for each in rerun.calls}
        if torch.float16 in types:
            change = "run in bfloat16 instead of float16"
            yield remedy(Kind.OTHER_TYPE, change, lambda given: (given.in_type(torch.bfloat16), None))
        if types != {None}:
            yield remedy(Kind.OTHER_TYPE, "run in float32, without autocast", lambda given: (given.in_type(None), None))
    patch = patch_for(found.operation) if found.cause in (Cause.MODULE, Cause.LOSS) else None
    if patch is not None and (found.cause is Cause.MODULE or rerun.loss is not None):
        safe, words = patch
        at = f" at {found.line}" if found.line else ""
        changed = remedy(Kind.OPERATION, words + at, lambda given: (given, safe))
        if changed.helped:  # what code that is compiled or checkpointed runs again is out of its reach
            yield changed
    if found.samples and len(found.samples) < found.of:
        rest = [at for at in range(found.of) if at not in found.samples]
        word = "example" if len(found.samples) == 1 else "examples"
        leave = f"leave {word} {', '.join(map(str, found.samples))} out, and look at where they come from"
        yield remedy(Kind.EXAMPLES, leave, lambda given: (given.only(rest), None))


def _helps(rerun: Rerun, make: Make, found: Localisation) -> bool:
    """Return whether the pass that failed is sound with a change, and what comes after it if that can be run."""
    with ExitStack() as stack:
        try:
            changed, around = make(rerun)
            if around is not None:
                stack.enter_context(around)
            shown = run_again(changed, found)
        except Exception:  # the user's code may raise anything; what does not fit this model does not help
            return False
    if shown.tensors:
        return False
    if shown.given or shown.lacks_gradients:  # some gradients are those of the failure, and go no further
        return not found.backward or (found.cause is Cause.MODULE and shown.given)
    return True


def _in_float32(rerun: Rerun, found: Localisation) -> Remedy:
    """Run the module in float32, and those behind it that fail then: what they get may be too large for them."""
    first, _, number = found.module.partition(" (model ")
    model = rerun.models[int(number[:-1]) - 1 if number else 0]
    names, helped = [first], False
    while not helped and len(names) <= MOST_MODULES:
        try:
            with in_float32(model, names):
                helped = _helps(rerun, _as_it_is, found)
                place = found if helped else locate(rerun)[0]
        except Exception:  # it cannot be changed from outside, or the user's code raises
            break
        if helped or place.cause is not Cause.MODULE or place.dtype not in HALVES or place.module in names:
            break
        names.append(place.module)
    listed = ", ".join(f'"{each}"' for each in names)
    change = f"run {', '.join(names)} in float32: torchmend.stabilise(model, modules=[{listed}])"
    return Remedy(kind=Kind.MODULE_IN_FLOAT32, change=change, helped=helped)


def _as_it_is(rerun: Rerun) -> tuple[Rerun, None]:
    return rerun, None
