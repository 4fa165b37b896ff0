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
"""Makes the change: returns another batch, and what surrounds its run."""

Try = tuple[Kind, str, Make]
"""What sort of change it is, what is changed in words, and what does it."""


def tried(rerun: Rerun, found: Localisation, enough: Callable[[], bool] = lambda: False) -> tuple[Remedy, ...]:
    """Try changes on a batch until one helps.

    Args:
        rerun: The batch.
        found: Where it fails.
        enough: Asked between two changes whether to stop there.

    Returns:
        What was tried, in order; the last one helped, if any did.
    """
    done: list[Remedy] = []
    if found.dtype in HALVES and found.cause is Cause.MODULE:
        done.append(_in_float32(rerun, found))
        if done[0].helped:
            return tuple(done)
    for kind, change, make in _candidates(rerun, found):
        helped = _helps(rerun, make, found)
        done.append(Remedy(kind=kind, change=change, helped=helped))
        if helped or enough():
            break
    return tuple(done)


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


def _candidates(rerun: Rerun, found: Localisation) -> Iterator[Try]:
    """Yield changes that fit, the smallest first."""
    if rerun.scale > 1 and found.backward:
        yield (
            Kind.SCALE,
            f"let the GradScaler lower its factor of {rerun.scale:g}",
            lambda given: (given.with_scale(1.0), None),
        )
    if found.dtype in HALVES:
        yield from _wider(rerun)
    patch = patch_for(found.operation) if found.cause in (Cause.MODULE, Cause.LOSS) else None
    if patch is not None and (found.cause is Cause.MODULE or rerun.loss is not None):
        safe, words = patch
        yield Kind.OPERATION, f"{words}{f' at {found.line}' if found.line else ''}", lambda given: (given, safe)
    if found.samples and len(found.samples) < found.of:
        rest = [at for at in range(found.of) if at not in found.samples]
        listed = ", ".join(map(str, found.samples))
        word = "example" if len(found.samples) == 1 else "examples"
        yield (
            Kind.EXAMPLES,
            f"leave {word} {listed} out, and look at where they come from",
            lambda given: (given.only(rest), None),
        )


def _in_float32(rerun: Rerun, found: Localisation) -> Remedy:
    """Run the module in float32, and those behind it that fail then: what they get may be too large for them."""
    model = next((each for each in rerun.models if found.module in dict(each.named_modules())), rerun.models[0])
    names, helped = [found.module], False
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


def _wider(rerun: Rerun) -> Iterator[Try]:
    if any(each.autocast.dtype is torch.float16 for each in rerun.calls):
        yield Kind.OTHER_TYPE, "run in bfloat16 instead of float16", lambda given: (given.in_type(torch.bfloat16), None)
    if any(each.autocast.dtype is not None for each in rerun.calls):
        yield Kind.OTHER_TYPE, "run in float32, without autocast", lambda given: (given.in_type(None), None)
