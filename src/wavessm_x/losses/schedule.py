"""How much each term weighs at which iteration: a pure function, so that a resumed run weighs as an unbroken one."""

from collections.abc import Mapping

TERMS = ("l1", "perceptual", "ssim", "edge", "freq")
"""The terms, in the order of the setting `loss_weights`."""

LENGTH = 33000
"""The published length of a training; the milestones of a shorter one shrink with it."""

STRUCTURE, RISE, FULL = 1000, 3000, 5000
"""Iterations at which structure comes in, at which all terms begin to rise, and from which all weigh in full."""

FAINT, LIGHT = 0.01, 0.1
"""The shares of their full weight that the structural terms have at the first two milestones."""


def weights_at(iteration: int, num_iter: int, full: Mapping[str, float]) -> dict[str, float]:
    """Return the weight of every term.

    At first l1 stands alone; then perceptual and ssim grow from 0.01 to 0.1 of their full weight; then these two go on
    to their full weight, and edge and freq grow from 0 to theirs. Without l1 there is nothing to begin with: all terms
    weigh in full at once.

    Args:
        iteration: Of the training, from 0.
        num_iter: Iterations in all. Below 33000 the milestones lie earlier in proportion.
        full: The weight of each term at the end; it is not changed.

    Returns:
        A new dictionary with the keys of TERMS.
    """
    if full["l1"] == 0:
        return {name: full[name] for name in TERMS}
    at = iteration / scale(num_iter)
    if at < STRUCTURE:
        structure, detail = 0.0, 0.0
    elif at < RISE:
        structure, detail = _between(FAINT, LIGHT, (at - STRUCTURE) / (RISE - STRUCTURE)), 0.0
    else:
        detail = min((at - RISE) / (FULL - RISE), 1.0)
        structure = _between(LIGHT, 1.0, detail)
    shares = {"l1": 1.0, "perceptual": structure, "ssim": structure, "edge": detail, "freq": detail}
    return {name: full[name] * shares[name] for name in TERMS}


def is_full(iteration: int, num_iter: int, full: Mapping[str, float]) -> bool:
    """Return whether all terms weigh in full."""
    return full["l1"] == 0 or iteration / scale(num_iter) >= FULL


def scale(num_iter: int) -> float:
    """Return what the milestones are multiplied by: 1 for a training of the published length or longer."""
    return min(num_iter / LENGTH, 1.0)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share
