"""A live model, state dict or checkpoint dictionary as a source of named, measured tensors that can be written."""

from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from torchmend.facts.dtypes import Kind
from torchmend.facts.findings import Measure, Skipped
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.live.device import Screened, Transfers, fetch_whole, host_raw, screen
from torchmend.live.elements import DTYPE_NAMES, detached, identity, local_part, memory, raw_of, why_unreadable, write
from torchmend.live.walk import Leaf, find
from torchmend.measure.bits import Raw
from torchmend.measure.fetch import row_sums, short_vector
from torchmend.measure.scan import Progress, Request, measure
from torchmend.rules.requests import needs_counting, request_for
from torchmend.rules.roles import assign_roles
from torchmend.rules.weights import may_be_constant

ScanProgress = Callable[[int, int], None]
"""Called with (bytes looked at since the last call, bytes to look at in all)."""


class LiveSource:
    """A live object: its tensors with roles, their measures, their elements on demand, and writes in place.

    Elements are read when they are asked for: a tensor on the CPU is looked at where it lies, without a copy.

    Args:
        source: A module, or a dictionary as checkpoints are.
        optimizer: Whose state belongs to it.
        wanted: Which tensors to look at, by full name; all without it.
        as_device: Treat CPU tensors like those of other devices; for tests.
    """

    def __init__(
        self,
        source: nn.Module | Mapping[Any, Any],
        optimizer: Any = None,
        *,
        wanted: Callable[[str], bool] | None = None,
        as_device: bool = False,
    ) -> None:
        found = find(source, optimizer)
        self.name = f"live {type(source).__name__}" if isinstance(source, nn.Module) else "live dictionary"
        self.format = "live model" if isinstance(source, nn.Module) else "live dictionary"
        self.scalars: tuple[Scalar, ...] = tuple(found.scalars)
        self.progress: Progress | None = None
        self.transfers = Transfers()
        self._owners = found.owners
        self._as_device = as_device
        leaves = [leaf for leaf in found.leaves if wanted is None or wanted(leaf.name)]
        plain, tensors, reasons = [], [], []
        for leaf in leaves:
            local = local_part(leaf.tensor)
            reasons.append(why_unreadable(local))
            tensors.append(local if reasons[-1] else detached(local))
            plain.append(_ref(self.name, leaf, tensors[-1], bool(reasons[-1])))
        self.refs = assign_roles(plain, found.optimizers)
        self._tensors = dict(zip(self.refs, tensors, strict=True))
        self.skipped = tuple(
            Skipped(ref=ref, reason=reason) for ref, reason in zip(self.refs, reasons, strict=True) if reason
        )
        self._unreadable = {each.ref for each in self.skipped}
        self._read_only = {ref for ref, leaf in zip(self.refs, leaves, strict=True) if leaf.read_only}
        self._snapshot: dict[Hashable, Raw] = {}

    # Reading

    def is_readable(self, ref: TensorRef) -> bool:
        """Return whether the tensor's elements can be had."""
        return ref not in self._unreadable

    @cached_property
    def pinned(self) -> frozenset[TensorRef | Scalar]:
        """What cannot be written: numbers inside tuples, arrays that are read-only, tensors without memory."""
        scalars = (scalar for scalar in self.scalars if scalar.path not in self._owners)
        return frozenset((*self._unreadable, *self._read_only, *scalars))

    def report_to(self, progress: ScanProgress | None) -> None:
        """Have a scan tell how far it is; tensors of other devices are not reported."""
        if progress is not None:
            total = self.scannable
            self.progress = lambda done: progress(done, total)

    @cached_property
    def scannable(self) -> int:
        """Bytes of distinct tensors that measuring looks at."""
        sizes = {ref.storage: ref.numel * ref.element.itemsize for ref in self._floats()}
        return sum(sizes.values())

    @cached_property
    def measures(self) -> dict[TensorRef, Measure]:
        """Every floating-point tensor, measured once; names of the same elements share a measure.

        Tensors on the CPU are measured where they lie, those of other devices in one transfer a device, and
        one more if anything there is damaged or in doubt.
        """
        aliases: dict[Hashable, list[TensorRef]] = {}
        for ref in self._floats():
            aliases.setdefault((ref.storage, ref.role.is_nonnegative), []).append(ref)
        here = {key: refs for key, refs in aliases.items() if self._is_here(refs[0])}
        results = measure(
            [request_for(key, refs, self.raw(refs[0])) for key, refs in here.items()], progress=self.progress
        )
        elsewhere = {key: refs for key, refs in aliases.items() if key not in here}
        results |= self._measured_on_devices(elsewhere)
        return {ref: results[key] for key, refs in aliases.items() for ref in refs}

    def _floats(self) -> list[TensorRef]:
        return [ref for ref in self.refs if ref.element.is_floating and ref not in self._unreadable]

    def _is_here(self, ref: TensorRef) -> bool:
        return self._tensors[ref].device.type == "cpu" and not self._as_device

    def _measured_on_devices(self, aliases: Mapping[Hashable, list[TensorRef]]) -> dict[Hashable, Measure]:
        """Measure what lies on other devices; with it come the small tensors that rules look at."""
        by_device: dict[Hashable, dict[TensorRef, Tensor]] = {}
        for ref, tensor in self._tensors.items():
            if ref not in self._unreadable and not self._is_here(ref) and ref.element.kind is not Kind.PACKED:
                by_device.setdefault(tensor.device, {})[ref] = tensor
        results: dict[Hashable, Measure] = {}
        for tensors in by_device.values():
            distinct = {(ref.storage, ref.role.is_nonnegative): ref for ref in reversed(tensors)}
            screened = screen({ref: tensors[ref] for ref in reversed(distinct.values())}, self.transfers)
            self._snapshot |= {ref.storage: raw for ref, raw in screened.small.items()}
            mine = {key: refs for key, refs in aliases.items() if refs[0] in tensors}
            results |= self._settled(mine, screened, tensors)
        return results

    def _settled(
        self, aliases: Mapping[Hashable, list[TensorRef]], screened: Screened, tensors: Mapping[TensorRef, Tensor]
    ) -> dict[Hashable, Measure]:
        """Take what the screen cleared as measured, count what came along, and fetch and count the rest."""
        results: dict[Hashable, Measure] = {}
        counted: list[Request] = []
        doubtful: dict[TensorRef, Hashable] = {}
        for key, refs in aliases.items():
            ref = refs[0]
            if (raw := self._snapshot.get(ref.storage)) is not None:
                counted.append(request_for(key, refs, raw))
            elif _is_cleared(refs, screened):
                results[key] = Measure(numel=ref.numel, absmax=screened.absmax[ref])
            else:
                doubtful[ref] = key
        results |= measure(counted)
        for batch in fetch_whole({ref: tensors[ref] for ref in doubtful}, self.transfers):
            results |= measure([request_for(doubtful[ref], aliases[doubtful[ref]], raw) for ref, raw in batch.items()])
        return results

    def raw(self, ref: TensorRef) -> Raw:
        """Return the raw integers of a readable tensor in its shape: for one on the CPU a view of its memory."""
        if self._is_here(ref):
            return raw_of(self._tensors[ref], ref.element)
        if (known := self._snapshot.get(ref.storage)) is not None:
            return known
        return host_raw(self._tensors[ref], ref.element, self.transfers)

    def vector(self, ref: TensorRef) -> Vector:
        """Fetch a small real tensor as float64, flattened row-major."""
        return short_vector(self.raw(ref), ref)

    def row_sums(self, ref: TensorRef, axis: int) -> tuple[Vector, Vector]:
        """Sum the elements and their squares over all other axes; one slice along `axis` as float64 at most."""
        return row_sums(self.raw(ref), ref.element, axis)

    # Writing

    def memory(self, ref: TensorRef) -> Hashable:
        """Return what is equal for tensors that may share elements."""
        return memory(self._tensors[ref])

    def write(self, ref: TensorRef, index: NDArray[np.int64], raw: Raw) -> None:
        """Overwrite elements in place, unseen by autograd's version counters."""
        write(self._tensors[ref], index, raw, ref.element)

    def set_scalar(self, scalar: Scalar, value: float) -> None:
        """Overwrite a number where it stands; a whole number stays one where it can."""
        owner, key = self._owners[scalar.path]
        whole = isinstance(scalar.value, int) and float(value).is_integer()
        new = int(value) if whole else value
        if hasattr(owner, "__setitem__"):
            owner[key] = new
        else:
            setattr(owner, key, new)


def _ref(source: str, leaf: Leaf, tensor: Tensor, unreadable: bool) -> TensorRef:
    dtype = DTYPE_NAMES.get(tensor.dtype, "uint8")
    return TensorRef(
        source=source,
        container=leaf.container,
        name=leaf.name,
        shape=_shape(tensor),
        dtype=dtype,
        storage=id(leaf.tensor) if unreadable else identity(tensor, dtype),
    )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    try:
        return tuple(tensor.shape)
    except RuntimeError:  # a lazy parameter has none yet
        return ()


def _is_cleared(refs: list[TensorRef], screened: Screened) -> bool:
    """Return whether the screen tells all that a full measurement would have to say."""
    first = refs[0]
    if not np.isfinite(screened.absmax[first]) or screened.minimum.get(first, 0.0) < 0:
        return False
    constant = first in screened.alike and any(may_be_constant(ref) for ref in refs)
    return not constant and not any(needs_counting(ref) for ref in refs)
