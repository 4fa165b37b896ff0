"""What half precision can hold, and how near a number is to what it cannot."""

import math
from collections.abc import Mapping
from typing import Any

import torch

LARGEST = 65504.0
"""The largest float16."""

LEAST_BITS = 3.0
"""Bits of headroom below which a module is told: in one reproduced run they came 18 steps before the overflow."""

OVERFLOWED = -1.0
"""Bits of headroom of a module whose output is infinite: a whole bit less than of one that just fits."""

SAFE_EPS = 1e-4
"""An epsilon that float16 can hold."""


def headroom(largest: float) -> float:
    """Return by how many bits a magnitude may grow in float16; Inf for zero, `OVERFLOWED` for Inf."""
    if largest == math.inf:
        return OVERFLOWED
    return math.log2(LARGEST / largest) if largest > 0 else math.inf


def types_without_eps(group: Mapping[str, Any]) -> list[str]:
    """Return the types of a group's parameters in which its epsilon is zero, or too small to be told from it."""
    eps = group.get("eps")
    kinds = {parameter.dtype for parameter in group["params"] if parameter.is_floating_point()}
    return [
        str(kind).removeprefix("torch.")
        for kind in sorted(kinds, key=str)
        if isinstance(eps, float) and 0 < eps < torch.finfo(kind).tiny and torch.finfo(kind).bits < 32
    ]
