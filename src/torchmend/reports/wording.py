"""How numbers, tensors and counts are written."""

from collections.abc import Callable, Sequence

from torchmend.facts.findings import Measure
from torchmend.facts.tensors import Scalar, TensorRef

Paint = Callable[[str, str], str]
"""Colours a text for a terminal: (text, style name) -> text. Style names: red, yellow, green, cyan, bold."""

MOST_LISTED = 8


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


def place(ref: TensorRef | Scalar) -> str:
    """Write where a tensor stands, container and name, or a scalar's path."""
    if isinstance(ref, Scalar):
        return ref.dotted
    return f"{ref.container} / {ref.name}" if ref.container else ref.name


def shape(ref: TensorRef) -> str:
    """Write a tensor's type and shape."""
    return f"{ref.dtype} {list(ref.shape)}"


def counts(measure: Measure, *, nonnegative: bool = False) -> str:
    """Write how many elements are damaged, out of how many; with `nonnegative` also how many are below zero."""
    text = f"NaN {measure.nan:,} / {measure.numel:,}   Inf {measure.inf:,} / {measure.numel:,}"
    finite_negative = (measure.negative or 0) - measure.neg_inf
    if nonnegative and finite_negative > 0:
        text += f"   negative {finite_negative:,} / {measure.numel:,}   smallest {measure.minimum:.4g}"
    return text


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
