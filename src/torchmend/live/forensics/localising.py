"""From a failing batch to the module, the operation and the examples."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor

from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.probing import Origin, Probe, is_bad, value_of
from torchmend.live.forensics.rerun import Rerun, Shown, is_damaged

MOST_RUNS = 40
"""Runs of parts of a batch in the search of one group, at most."""

FEW = 8
"""Parts of so many examples are also tried without each one of them."""

MOST_GUILTY = 3
"""Groups of guilty examples that are looked for."""


def localise(rerun: Rerun, *, loss_finite: bool = True, divides: bool = True) -> Localisation:
    """Run a batch again under probes, and say where it went wrong.

    Args:
        rerun: The batch.
        loss_finite: Whether the loss was finite in the step, or is not known.
        divides: Whether the smallest part of the batch is looked for that still shows it.
    """
    rerun.restore()
    probe = Probe(rerun.models, rerun.inputs())
    shown = rerun.run(probe)
    found = _found(rerun, probe, shown, loss_finite=loss_finite)
    count = rerun.examples
    if count < 2:
        return replace(found, of=count)
    if found.cause is Cause.INPUT:
        return replace(found, samples=_rows(each for _, each in rerun.inputs()), of=count)
    if shown.given:
        given = _rows(each for call in rerun.calls for each in call.out_gradients.values())
        return replace(found, samples=given if len(given) < count else (), of=count)
    if divides and shown and found.cause in (Cause.MODULE, Cause.LOSS):
        part, others = guilty_part(lambda part: _still(rerun, part, shown), count)
        note = "other examples show it as well" if others else ""
        largest, usual = _magnitudes(rerun, part) if len(part) < count else (0.0, 0.0)
        return replace(found, samples=part, of=count, note=note, largest=largest, usual=usual)
    return replace(found, of=count)


def _magnitudes(rerun: Rerun, part: tuple[int, ...]) -> tuple[float, float]:
    """Return the largest magnitude in the numbers of some examples, and that in all others."""
    count = rerun.examples
    rest = [at for at in range(count) if at not in part]
    given = [each for _, each in rerun.inputs() if each.is_floating_point() and each.dim() and len(each) == count]
    both = [[each[rows].abs().max().item() for each in given if each.numel()] for rows in (list(part), rest)]
    return max(both[0], default=0.0), max(both[1], default=0.0)


def _rows(tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Return the places in the first dimension at which one of the tensors is not finite."""
    found: set[int] = set()
    for each in tensors:
        if each.dim() and is_bad(each):
            found.update(torch.nonzero(~each.isfinite().flatten(1).all(1) if each.dim() > 1 else ~each.isfinite()).flatten().tolist())
    return tuple(sorted(found))


def _found(rerun: Rerun, probe: Probe, shown: Shown, *, loss_finite: bool) -> Localisation:
    after = probe.after
    given = [each for call in rerun.calls for each in call.out_gradients.values() if is_bad(each)]
    before = [each for call in rerun.calls for each in call.kept if is_damaged(each)]
    if before and not shown.tensors and rerun.loss is None:
        return Localisation(cause=Cause.NOT_AGAIN)  # the model's outputs were not finite then, and are now
    if shown.given:
        return Localisation(cause=Cause.LOSS, module=after, backward=loss_finite, value=value_of(given[0]))
    if shown.tensors:
        origins = [origin for origin in (probe.origin_of(each) for _, each in shown.tensors) if origin is not None]
        real = [each for each in origins if not each.on_purpose] or origins
        if real:
            return _of(min(real, key=lambda each: each.number), after)
        name = shown.tensors[0][0]
        return Localisation(cause=Cause.UNKNOWN, backward=shown.backward, note=f"{name} is not finite")
    if rerun.loss is None and not loss_finite:
        return Localisation(cause=Cause.LOSS, module=after)
    if shown.lacks_gradients:
        note = "the models' outputs are finite; whether the loss code or their backward pass failed cannot be told"
        return Localisation(cause=Cause.UNKNOWN, module=after, backward=True, note=f"{note} without Guard(loss=)")
    return Localisation(cause=Cause.NOT_AGAIN)


def _of(origin: Origin, after: str) -> Localisation:
    place = origin.place
    if origin.source:
        kind, _, name = origin.source.partition(" ")
        known = {each.value: each for each in (Cause.INPUT, Cause.PARAMETER, Cause.BUFFER)}
        return Localisation(cause=known.get(kind, Cause.OUTSIDE), module=name if kind in known else "", value=origin.value)
    return Localisation(
        cause=Cause.MODULE if place.known else Cause.LOSS,
        module=place.module or (after if place.after is None else place.after),
        kind=place.kind,
        also=place.also,
        call=place.call,
        backward=origin.backward,
        operation=origin.operation,
        dtype=origin.dtype,
        value=origin.value,
        parameter=origin.parameter,
        line=place.line,
    )


def _still(rerun: Rerun, part: tuple[int, ...], shown: Shown) -> bool:
    try:
        again = rerun.only(part).run()
    except Exception:  # noqa: BLE001  # a model may refuse so few examples, in any way
        return False
    return bool(again) and again.backward == shown.backward


def guilty_part(shows: Callable[[tuple[int, ...]], bool], count: int) -> tuple[tuple[int, ...], bool]:
    """Find the examples of a batch without which it does not show a failure.

    Batch statistics need two examples or more, so that a guilty one may show nothing alone: it is told from those
    beside it by leaving out either.

    Args:
        shows: Whether a part does.
        count: Examples in the batch.

    Returns:
        Places of the examples, ascending, all of them where no smaller part shows it; and whether the batch shows it
        without them as well.
    """
    rest, guilty = tuple(range(count)), ()
    for _ in range(MOST_GUILTY):
        part = _smallest_part(shows, rest)
        if len(part) == len(rest):
            return (guilty, True) if guilty else (part, False)
        if 1 < len(part) <= FEW:
            part = tuple(at for at in part if not shows(_without(rest, (at,)))) or part
        guilty, rest = tuple(sorted((*guilty, *part))), _without(rest, part)
        if not shows(rest):
            return guilty, False
    return guilty, True


def _without(part: tuple[int, ...], some: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(each for each in part if each not in some)


def _smallest_part(shows: Callable[[tuple[int, ...]], bool], part: tuple[int, ...]) -> tuple[int, ...]:
    runs = 0
    while len(part) > 1 and runs < MOST_RUNS:
        half = len(part) // 2
        pieces = [part[:half], part[half:]]
        if 2 < len(part) <= FEW:
            pieces += [part[:at] + part[at + 1 :] for at in range(len(part))]
        runs += len(pieces)
        smaller = next((piece for piece in pieces if shows(piece)), None)
        if smaller is None:
            break
        part = smaller
    return part
