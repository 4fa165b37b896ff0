"""What a file and a live model have in common, so that rules and repairs need not know which it is."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from torchmend.facts.findings import Measure
from torchmend.facts.tensors import Scalar, TensorRef

Vector = NDArray[np.float64]
"""A one-dimensional float64 array."""


class TensorSource(Protocol):
    """Named tensors that can be measured, and of which short vectors can be fetched."""

    @property
    def refs(self) -> tuple[TensorRef, ...]:
        """Every tensor, in the source's order."""
        ...

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """Numbers and short texts beside the tensors."""
        ...

    @property
    def measures(self) -> dict[TensorRef, Measure]:
        """What was measured of each tensor that could be looked at."""
        ...

    def is_readable(self, ref: TensorRef) -> bool:
        """Return whether the tensor's elements can be had."""
        ...

    def vector(self, ref: TensorRef) -> Vector:
        """Fetch a small tensor, flattened row-major, as float64 (Inf and NaN as they are)."""
        ...

    def raw(self, ref: TensorRef) -> NDArray[np.unsignedinteger]:
        """Return a tensor's elements as raw integers (see `measure.bits`) in its shape; complex: a last axis of two."""
        ...

    def row_sums(self, ref: TensorRef, axis: int) -> tuple[Vector, Vector]:
        """Return the sums of the elements and of their squares, one a slice along `axis`, in float64."""
        ...
