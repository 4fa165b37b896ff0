"""From a failing batch to the module, the operation and the examples."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.probing import EXCHANGES, OUTSIDE, Origin, Probe, is_bad, is_damaged, value_of
from torchmend.live.forensics.rerun import Rerun, Shown

MOST_RUNS = 40
"""Runs of parts of a batch in the search of one group, at most."""

FEW = 8
"""Pieces that a batch is divided into at most, of which each is left out."""

MOST_SAID = 160
"""Characters of an error that are told."""

MOST_GUILTY = 3
"""Groups of guilty examples that are looked for."""

PAST_OUTPUTS = (
    "without Guard(loss=) only the models were run: a penalty on weights, or on gradients, may have failed as well"
)
"""What has to be said where a run without the loss shows nothing."""


def localise(
    rerun: Rerun, *, loss_finite: bool | None = None, enough: Callable[[], bool] = lambda: False
) -> Localisation:
    """Run a batch again under probes, and say where it went wrong.

    Args:
        rerun: The batch.
        loss_finite: Whether the loss was finite in the step; None if it is not known.
        enough: Asked between two runs of parts of the batch whether to stop there.
    """
    found, shown = locate(rerun, loss_finite=loss_finite)
    count = rerun.examples
    if count < 2:
        return replace(found, of=count)
    if found.cause is Cause.INPUT:
        return replace(found, samples=_rows(each for _, each in rerun.inputs()), of=count)
    if shown.given:
        given = _rows(each for call in rerun.calls for each in call.out_gradients.values())
        return replace(found, samples=given if len(given) < count else (), of=count)
    if not found.exchanges and shown and found.cause in (Cause.MODULE, Cause.LOSS):
        tries: list[str] = []
        part, others = guilty_part(lambda part: _still(rerun, part, shown, found, tries), count, enough)
        if tries and all(tries):
            return replace(found, of=count, note=f"no part of the batch could be run alone ({tries[0]})")
        if enough():
            part = part if len(part) < count else ()
            return replace(
                found, samples=part, of=count, note="the search for the examples was stopped: it took too long"
            )
        if others:
            few = ", ".join(map(str, part[:FEW]))
            return replace(found, of=count, note=f"most examples show it: without {few} the others still do")
        largest, usual = _magnitudes(rerun, part) if len(part) < count else (0.0, 0.0)
        return replace(found, samples=part, of=count, largest=largest, usual=usual)
    return replace(found, of=count)


def locate(rerun: Rerun, *, loss_finite: bool | None = None) -> tuple[Localisation, Shown]:
    """Run a batch once under probes; return where it went wrong, and what showed it."""
    rerun.restore()
    probe = Probe(rerun.models, rerun.inputs())
    shown = rerun.run(probe)
    found = _found(rerun, probe, shown, loss_finite=loss_finite)
    return replace(found, exchanges=probe.exchanges), shown


def said(error: Exception) -> str:
    """Return an error in a line."""
    line = (str(error).splitlines() or [""])[0][:MOST_SAID]
    return f"{type(error).__name__}: {line}"


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
            found.update(
                torch.nonzero(~each.isfinite().flatten(1).all(1) if each.dim() > 1 else ~each.isfinite())
                .flatten()
                .tolist()
            )
    return tuple(sorted(found))


def _found(rerun: Rerun, probe: Probe, shown: Shown, *, loss_finite: bool | None) -> Localisation:
    after = probe.after
    given = [each for call in rerun.calls for each in call.out_gradients.values() if is_bad(each)]
    made = [call for call in rerun.calls if not call.has_damaged_input]  # the others were not made again
    before = [each for call in made for each in call.kept if is_damaged(each)]
    if before and not shown.tensors and rerun.loss is None:
        return Localisation(cause=Cause.NOT_AGAIN)  # the model's outputs were not finite then, and are now
    if shown.given:
        return Localisation(
            cause=Cause.LOSS,
            module=after,
            backward=bool(loss_finite),
            value=value_of(given[0]),
            pass_unknown=loss_finite is None,
        )
    if shown.tensors:
        origins = [origin for origin in (probe.origin_of(each) for _, each in shown.tensors) if origin is not None]
        real = [each for each in origins if not each.on_purpose] or origins
        if real:
            first = min(real, key=lambda each: each.number)
            if probe.exchanges and (first.source == OUTSIDE or first.operation.startswith(EXCHANGES)):
                return Localisation(cause=Cause.UNKNOWN, note="what came from another rank was not finite")
            return _of(first, after)
        name = shown.tensors[0][0]
        return Localisation(cause=Cause.UNKNOWN, backward=shown.backward, note=f"{name} is not finite")
    if rerun.loss is None and loss_finite is False:
        return Localisation(cause=Cause.LOSS, module=after)
    if shown.lacks_gradients:
        note = "the models' outputs are finite; whether the loss code or their backward pass failed cannot be told"
        return Localisation(cause=Cause.UNKNOWN, module=after, backward=True, note=f"{note} without Guard(loss=)")
    return Localisation(cause=Cause.NOT_AGAIN, note=PAST_OUTPUTS if rerun.loss is None else "")


def _of(origin: Origin, after: str) -> Localisation:
    place = origin.place
    if origin.source:
        kind, _, name = origin.source.partition(" ")
        known = {each.value: each for each in (Cause.INPUT, Cause.PARAMETER, Cause.BUFFER)}
        return Localisation(
            cause=known.get(kind, Cause.OUTSIDE), module=name if kind in known else "", value=origin.value
        )
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


def run_again(rerun: Rerun, found: Localisation) -> Shown:
    """Run a batch that was changed; with a probe only where it takes one, to tell damage from a mask."""
    takes_probe = found.value == "-Inf" and not found.backward
    return rerun.run(Probe(rerun.models, rerun.inputs()) if takes_probe else None)


def _still(rerun: Rerun, part: tuple[int, ...], shown: Shown, found: Localisation, tries: list[str]) -> bool:
    """Return whether a part of the batch shows it; add to the tries what kept it from being run, or nothing."""
    try:
        again = run_again(rerun.only(part), found)
    except Exception as error:  # a model may refuse so few examples, in any way
        tries.append(said(error))
        return False
    tries.append("")
    return bool(again) and again.backward == shown.backward


def guilty_part(
    shows: Callable[[tuple[int, ...]], bool], count: int, enough: Callable[[], bool] = lambda: False
) -> tuple[tuple[int, ...], bool]:
    """Find the examples of a batch without which it does not show a failure.

    Batch statistics need two examples or more, so that a guilty one may show nothing alone: it is told from those
    beside it by leaving out either.

    Args:
        shows: Whether a part does.
        count: Examples in the batch.
        enough: Asked whether to stop with what is known.

    Returns:
        Places of the examples, ascending, all of them where no smaller part shows it; and whether the batch shows it
        without them as well.
    """
    rest, guilty = tuple(range(count)), cast("tuple[int, ...]", ())
    for _ in range(MOST_GUILTY):
        part = _smallest_part(shows, rest, enough)
        if len(part) == len(rest):
            return (guilty, True) if guilty else (part, False)
        if 1 < len(part) <= 2 * FEW and not enough():
            part = tuple(at for at in part if not shows(_without(rest, (at,)))) or part
        guilty, rest = tuple(sorted((*guilty, *part))), _without(rest, part)
        if enough() or not shows(rest):
            return guilty, enough()
    return guilty, True


def _without(part: tuple[int, ...], some: tuple[int, ...]) -> tuple[int, ...]:
    left = set(some)
    return tuple(each for each in part if each not in left)


def _smallest_part(
    shows: Callable[[tuple[int, ...]], bool], part: tuple[int, ...], enough: Callable[[], bool]
) -> tuple[int, ...]:
    """Take halves as long as one shows it; where none does, leave out quarters and eighths.

    This is delta debugging (Zeller and Hildebrandt, 2002), cut short: a failure of the whole batch is known after
    fourteen runs.
    """
    runs, pieces = 0, 2
    while len(part) > 1 and runs < MOST_RUNS and not enough():
        size = -(-len(part) // pieces)
        chunks = [part[at : at + size] for at in range(0, len(part), size)]
        tries = chunks if pieces == 2 else [_without(part, each) for each in chunks]
        runs += len(tries)
        smaller = next((each for each in tries if shows(each)), None)
        if smaller is not None:
            part, pieces = smaller, 2
        elif pieces < min(FEW, len(part)):
            pieces *= 2
        else:
            break
    return part
