"""Small things fetched from raw integers: short vectors, and sums along an axis."""

import numpy as np

from torchmend.facts.dtypes import DType, Kind
from torchmend.facts.errors import RepairError
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import TensorRef
from torchmend.measure.bits import Raw, decode_any
from torchmend.measure.chunks import flat_chunks

VECTOR_LIMIT = 1 << 20
"""The most elements that are fetched as one vector."""


def short_vector(raw: Raw, ref: TensorRef) -> Vector:
    """Return a short tensor of real numbers as float64, flattened row-major.

    Args:
        raw: Its raw integers, of any strides and byte order.
        ref: The tensor, of a float or integer type.

    Raises:
        RepairError: It is long, or of another kind.
    """
    if ref.numel > VECTOR_LIMIT or ref.element.kind not in (Kind.FLOAT, Kind.INTEGER):
        raise RepairError(f"{ref.path} is no short vector of real numbers: shape {ref.shape}, {ref.dtype}.")
    return decode_any(raw.astype(raw.dtype.newbyteorder("=")).reshape(-1), ref.element)


def row_sums(raw: Raw, dtype: DType, axis: int) -> tuple[Vector, Vector]:
    """Sum the elements and their squares over all other axes; one piece as float64 in memory at most.

    Args:
        raw: Any strides and byte order.
        dtype: A float type.
        axis: Along which the sums stay apart.
    """
    rows = np.moveaxis(raw, axis, 0)
    sums, squares = np.zeros(len(rows)), np.zeros(len(rows))
    for row, elements in enumerate(rows):
        for chunk in flat_chunks(elements.reshape(-1) if elements.ndim == 0 else elements):
            values = decode_any(chunk, dtype)
            sums[row] += values.sum()
            squares[row] += values @ values
    return sums, squares
