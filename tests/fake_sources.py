"""Sources for tests of rules and repairs: made of counts alone, or of arrays in memory."""

import numpy as np

from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.measure.bits import decode_any
from torchmend.measure.scan import Request, measure
from torchmend.rules.roles import assign_roles


class MeasuredSource:
    """Tensors of which nothing is known but counts."""

    def __init__(self, refs, measures, scalars=()):
        self.refs = tuple(refs)
        self.measures = measures
        self.scalars = tuple(scalars)

    def is_readable(self, ref):
        return False

    def vector(self, ref):
        raise AssertionError(f"{ref.name} was fetched")


class ArraySource:
    """Arrays in memory under dotted paths; what stands before the first `/` is the container.

    Args:
        arrays: float16, float32, float64 or integer arrays.
        scalars: Numbers, under dotted paths.
        optimizers: As `assign_roles` takes them.
    """

    def __init__(self, arrays, scalars=None, optimizers=None):
        plain = [_ref(path, array) for path, array in arrays.items()]
        self.refs = assign_roles(plain, optimizers)
        self.arrays = dict(zip(self.refs, map(np.ascontiguousarray, arrays.values()), strict=True))
        self.scalars = tuple(
            Scalar(path=tuple(int(key) if key.isdigit() else key for key in path.split(".")), value=value)
            for path, value in (scalars or {}).items()
        )
        floats = [ref for ref in self.refs if ref.element.is_floating]
        requests = [
            Request(
                key=ref,
                raw=self.raw(ref),
                dtype=ref.element,
                full=True,
                channels=ref.role.is_statistic,
                nonnegative=ref.role.is_nonnegative,
            )
            for ref in floats
        ]
        self.measures = measure(requests, threads=1)

    def __getitem__(self, path):
        return next(ref for ref in self.refs if ref.path == path)

    def is_readable(self, ref):
        return True

    def raw(self, ref):
        array = self.arrays[ref]
        return array.view(f"u{array.itemsize}").reshape(array.shape)

    def vector(self, ref):
        return decode_any(self.raw(ref).reshape(-1), ref.element)

    def row_sums(self, ref, axis):
        values = np.moveaxis(self.arrays[ref].astype(np.float64), axis, 0).reshape(ref.shape[axis], -1)
        return values.sum(axis=1), np.square(values).sum(axis=1)


def _ref(path, array):
    container, _, name = path.rpartition("/")
    return TensorRef(
        source="memory",
        container=container,
        name=name,
        shape=array.shape,
        dtype=array.dtype.name,
        role=Role.METADATA,
        storage=path,
    )
