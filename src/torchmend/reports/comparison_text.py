"""A comparison of two checkpoints as a report for a terminal: what matters first."""

import math
from collections.abc import Iterator, Sequence

from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports.comparison import (
    Comparison,
    Drift,
    Kind,
    ScalarChange,
    TensorChange,
    by_layer,
    figures,
    sentence,
)
from torchmend.reports.text import headline
from torchmend.reports.wording import Paint, counted, place, plain, shape

TOP = 10
"""Lines of each section, unless --top says otherwise; the JSON report has all."""

NAME_WIDTH = 56
NOTABLE_DRIFT = 0.01
"""Statistics that moved by less than a hundredth of a standard deviation are counted, not listed."""


def comparison_text(comparison: Comparison, paint: Paint = plain, top: int = TOP) -> str:
    """Render a comparison, without a final newline.

    Args:
        comparison: All of it.
        paint: Colours words.
        top: The most lines in each section.
    """
    lines = [f"A  {headline(comparison.before, paint)}", f"B  {headline(comparison.after, paint)}"]
    for section in (
        _damage(comparison, Kind.BROKE, paint, top),
        _damage(comparison, Kind.HEALED, paint, top),
        _drifts(comparison.drifts, paint, top),
        _moved("WEIGHTS AND BUFFERS", _of_model(comparison), paint, top),
        _moved("OPTIMIZER STATE", _of_optimizer(comparison), paint, top),
        _scalars(comparison.scalars, paint, top),
        _lists(comparison, paint, top),
    ):
        if found := list(section):
            lines += ["", *found]
    return "\n".join([*lines, "", *_closing(comparison, paint)])


def _damage(comparison: Comparison, kind: Kind, paint: Paint, top: int) -> Iterator[str]:
    changes = comparison.of(kind)
    scalars = [each for each in comparison.scalars if each.broke] if kind is Kind.BROKE else []
    if not changes and not scalars:
        return
    colour = "red" if kind is Kind.BROKE else "green"
    nouns = [counted(len(changes), "tensor")] if changes else []
    nouns += [counted(len(scalars), "number")] if scalars else []
    yield f"  {paint(kind.value.upper(), colour)}   {' and '.join(nouns)}"
    for change in changes[:top]:
        yield f"    {paint(place(change.ref), 'bold')}"
        codes = f"   {', '.join(sorted(set(change.codes)))}" if change.codes else ""
        yield f"      {change.ref.role.value}   {shape(change.ref)}   {_elements(change, kind)}{codes}"
    yield from _more(len(changes), top)
    for scalar in scalars[:top]:
        yield f"    {paint(scalar.dotted, 'bold')}   {_value(scalar.before)} -> {paint(_value(scalar.after), 'red')}"


def _elements(change: TensorChange, kind: Kind) -> str:
    if change.delta is None:
        return "not in A" if change.before is None else "not comparable element by element"
    number = change.delta.broke if kind is Kind.BROKE else change.delta.healed
    what = "of its elements broke" if kind is Kind.BROKE else "of its elements healed"
    return f"{number:,} / {change.delta.numel:,} {what}" + (
        ", others were damaged in A" if change.still_damaged else ""
    )


def _drifts(drifts: Sequence[Drift], paint: Paint, top: int) -> Iterator[str]:
    if not drifts:
        return
    listed = [each for each in drifts if each.size >= NOTABLE_DRIFT]
    title = paint("RUNNING STATISTICS", "bold")
    yield f"  {title}   moved in {counted(len(drifts), 'layer')}, furthest first (in A's standard deviations)"
    if not listed:
        yield f"    by less than {NOTABLE_DRIFT} in every channel"
    shown = listed[:top]
    width = _width(_layer_name(each) for each in shown)
    for each in shown:
        shift = f"mean by up to {each.shift:.2g} (channel {each.channel})"
        text = f"{shift}, typically {each.typical_shift:.2g};   width x{each.narrowest:.2f} .. x{each.widest:.2f}"
        yield f"    {_layer_name(each):<{width}}   {paint(text, 'yellow') if each.size >= 1 else text}"
    yield from _more(len(listed), top)


def _layer_name(drift: Drift) -> str:
    return ("averaged " if drift.averaged else "") + (drift.layer or drift.container)


def _moved(title: str, changes: Sequence[TensorChange], paint: Paint, top: int) -> Iterator[str]:
    if not changes:
        return
    layers = by_layer(changes)
    yield f"  {paint(title, 'bold')}   {counted(len(changes), 'tensor')} changed, the largest relative change first"
    width = _width(name for name, _ in layers[:top])
    for name, members in layers[:top]:
        inside = "   ".join(f"{_leaf(each.ref)} {percent(each.relative)}" for each in members[:4])
        more = f"   and {len(members) - 4} more" if len(members) > 4 else ""
        largest = max((each.delta.largest for each in members if each.delta), default=0.0)
        yield f"    {name:<{width}}   {inside}{more}   (|b-a| up to {largest:.2g})"
    if len(layers) > top:
        yield f"    and {counted(len(layers) - top, 'more layer')}; --top shows more"


def _leaf(ref: TensorRef) -> str:
    owner = f"{ref.param.rpartition('.')[2]} " if ref.role.is_optimizer and ref.param else ""
    return f"{'averaged ' if ref.averaged else ''}{owner}{ref.leaf}"


def _of_model(comparison: Comparison) -> list[TensorChange]:
    """Return what changed in models: not the statistics that the drifts tell of."""
    told = {(each.container, each.layer) for each in comparison.drifts}
    return [
        change
        for change in comparison.of(Kind.CHANGED)
        if not change.ref.role.is_optimizer
        and not (change.ref.role.is_statistic and (change.ref.container, change.ref.prefix) in told)
    ]


def _of_optimizer(comparison: Comparison) -> list[TensorChange]:
    return [change for change in comparison.of(Kind.CHANGED) if change.ref.role.is_optimizer]


def _scalars(scalars: Sequence[ScalarChange], paint: Paint, top: int) -> Iterator[str]:
    both = [each for each in scalars if each.before is not None and each.after is not None and not each.broke]
    lone = len([each for each in scalars if not each.broke]) - len(both)
    if not both and not lone:
        return
    alone = f"; {lone:,} stand in one file only" if lone else ""
    yield f"  {paint('METADATA', 'bold')}   {len(both):,} differ{alone}"
    both.sort(key=lambda each: len(each.path))
    width = _width(each.dotted for each in both[:top])
    for each in both[:top]:
        yield f"    {each.dotted:<{width}}   {_painted(each.before, paint)} -> {_painted(each.after, paint)}"
    yield from _more(len(both), top)


def _painted(scalar: Scalar | None, paint: Paint) -> str:
    odd = scalar is not None and isinstance(scalar.value, float) and not math.isfinite(scalar.value)
    return paint(_value(scalar), "red") if odd else _value(scalar)


def _value(scalar: Scalar | None) -> str:
    if scalar is None:
        return "(not there)"
    return f"{scalar.value:.6g}" if isinstance(scalar.value, float) else f"{scalar.value}"


def _lists(comparison: Comparison, paint: Paint, top: int) -> Iterator[str]:
    titles = {
        Kind.RESHAPED: "OF ANOTHER SHAPE OR DTYPE",
        Kind.ADDED: "ONLY IN B",
        Kind.REMOVED: "ONLY IN A",
        Kind.NOT_COMPARED: "NOT COMPARED",
    }
    for kind, title in titles.items():
        changes = comparison.of(kind)
        if not changes:
            continue
        yield f"  {paint(title, 'yellow')}   {counted(len(changes), 'tensor')}"
        for change in changes[:top]:
            old = f"{shape(change.before)} -> " if change.kind is Kind.RESHAPED and change.before else ""
            yield f"    {place(change.ref)}   {old}{shape(change.ref)}"
        yield from _more(len(changes), top)


def _closing(comparison: Comparison, paint: Paint) -> Iterator[str]:
    if comparison.before.refs or comparison.after.refs:
        yield f"  Tensors    {figures(comparison)}"
    if comparison.outside:
        outside = f"{counted(comparison.outside, 'tensor')} broke that --filter leaves out"
        yield f"  Not shown  {paint(outside, 'red')}"
    if not comparison.checked:
        yield "  Not fully checked: see `torchmend diagnose` for what could not be read."
    yield f"  In short   {paint(sentence(comparison), 'red' if comparison.broke else 'bold')}"


def percent(relative: float) -> str:
    """Write a relative change: in per cent up to tenfold, then as a factor."""
    if math.isinf(relative):
        return "from zero"
    if relative >= 10:
        return f"x{relative:.3g}"
    return f"{relative * 100:.2g} %" if relative < 0.995 else f"{relative * 100:.0f} %"


def _width(names: Iterator[str]) -> int:
    return min(max(map(len, names), default=0), NAME_WIDTH)


def _more(number: int, top: int) -> Iterator[str]:
    if number > top:
        yield f"    and {number - top:,} more; --top shows more, --format json all"
