"""Where a checkpoint says how far its training was."""

from collections.abc import Sequence

from torchmend.facts.tensors import Scalar

STEPS = ("global_step", "iteration", "step", "iter", "steps", "epoch")
"""Metadata that number the steps of a training, best first."""


def step_under(scalars: Sequence[Scalar], key: str) -> int | None:
    """Return the whole number of this name that stands at the top of a checkpoint, or one level below."""
    for scalar in scalars:
        value = scalar.value
        if len(scalar.path) <= 2 and scalar.leaf == key and isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def step_of(scalars: Sequence[Scalar]) -> int | None:
    """Return the first of the `STEPS` that a checkpoint has."""
    return next((step for key in STEPS if (step := step_under(scalars, key)) is not None), None)
