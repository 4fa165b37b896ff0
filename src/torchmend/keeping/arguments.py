"""Numbers that callers pass: whole ones and metrics, of any kind, as Python's own."""

import operator
from typing import Any

from torchmend.facts.errors import UserError


def whole_number(value: Any, name: str) -> int:
    """Return a whole number of any kind (Python's, NumPy's, a tensor of one element) as an int.

    Args:
        value: Of an argument.
        name: The argument's.

    Raises:
        UserError: It is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise UserError(f"{name} is {value!r}. Pass a whole number.") from None


def as_metric(value: Any) -> float | None:
    """Return a metric, a number of any kind or a tensor of one element, as a float; None stays None.

    Raises:
        UserError: It is no number.
    """
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, RuntimeError):  # torch's tensors raise the last two
        raise UserError(f"metric is {value!r}. Pass one number, or leave it out.") from None
