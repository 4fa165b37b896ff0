"""How numbers, tensors and counts are written."""

import re
from collections.abc import Callable, Sequence

from torchmend.facts.findings import Finding, Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef

Paint = Callable[[str, str], str]
"""Colours a text for a terminal: (text, style name) -> text. Style names: red, yellow, green, cyan, bold."""

_CONTROLS = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x09\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters but line feeds, and escapes but those of colours."""

MOST_LISTED = 8
LONGEST_VALUE = 60


def plain(text: str, _style: str) -> str:
    """Paint nothing."""
    return text


def size(nbytes: int) -> str:
    """Write a number of bytes with a unit of 1000 (`21.3 MB`)."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if round(value, 1) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun in the right form."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def harmless(text: str) -> str:
    """Replace control characters by escapes, all but line feeds and colours.

    A hostile file may name a tensor so that a terminal obeys it.
    """
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """Replace all control characters, line feeds and colours included."""
    return harmless(text.replace("\n", "\\n").replace("\x1b", "\\x1b"))


def place(ref: TensorRef | Scalar) -> str:
    """Write where a tensor stands, container and name, or a scalar's path."""
    if isinstance(ref, Scalar):
        return one_line(ref.dotted)
    return one_line(f"{ref.container} / {ref.name}" if ref.container else ref.name)


def what(ref: TensorRef) -> str:
    """Write what a tensor is for."""
    owner = "optimizer's " if ref.role in (Role.FIRST_MOMENT, Role.SECOND_MOMENT) else ""
    return f"{copy_of(ref, ' of a ')}{owner}{ref.role.value}"


def copy_of(ref: TensorRef, behind: str = "") -> str:
    """Write which kind of copy a tensor is, and what follows that; empty for the tensor itself."""
    kind = "averaged copy" if ref.averaged else "master copy" if ref.master else ""
    return kind and kind + behind


def shown_value(value: float | str) -> str:
    """Write a number or text of the metadata as Python shows it; long texts are cut."""
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def extra(finding: Finding) -> str:
    """Return a finding's detail where it says more than the value that is shown with it."""
    scalar = finding.scalar
    if scalar is None or not isinstance(scalar.value, int | float):
        return finding.detail
    words = finding.detail.split()
    said = len(words) <= 2 and words[-1:] in ([f"{scalar.value}"], [f"{scalar.value:g}"])
    return "" if said else finding.detail


def shape(ref: TensorRef) -> str:
    """Write a tensor's type and shape."""
    return f"{ref.dtype} {list(ref.shape)}"


def counts(measure: Measure, *, nonnegative: bool = False) -> str:
    """Write how many elements are damaged, out of how many; empty where none is.

    Args:
        measure: What was counted.
        nonnegative: Whether elements below zero are damage too.
    """
    parts = []
    if measure.nonfinite:
        parts += [f"NaN {measure.nan:,} / {measure.numel:,}", f"Inf {measure.inf:,} / {measure.numel:,}"]
    finite_negative = (measure.negative or 0) - measure.neg_inf
    if nonnegative and finite_negative > 0:
        parts += [f"negative {finite_negative:,} / {measure.numel:,}", f"smallest {measure.minimum:.4g}"]
    return "   ".join(parts)


def channels(measure: Measure) -> str:
    """Write which channels of a statistic are damaged."""
    bad = measure.bad_channels
    if not bad:
        return ""
    if len(bad) == measure.numel:
        return f"   channels: all {measure.numel}"
    return f"   channels: {listed(bad)} of {measure.numel}"


def listed(numbers: Sequence[int], most: int = MOST_LISTED) -> str:
    """Write the first few of a list, and how many more there are."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} and {len(numbers) - most} more" if len(numbers) > most else shown
