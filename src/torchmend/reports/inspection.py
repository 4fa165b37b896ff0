"""What is in a file, as data: tensors with their sizes and sharing, numbers, and what a pickle would call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torchmend.facts.findings import Diagnosis
from torchmend.facts.tensors import TensorRef
from torchmend.reports.machine import Json, measure_data, ref_data, scalar_data


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A file's contents. Nothing is judged.

    Args:
        diagnosis: Of which only refs, measures, numbers and what was skipped are shown.
        shared: For a tensor whose storage another one before it has too, that one.
        calls: What pickles in the file would import and call if they were loaded: dotted names, each with its call
            as Python would write it, or the name again where it is only imported.
    """

    diagnosis: Diagnosis
    shared: Mapping[TensorRef, TensorRef] = field(default_factory=dict)
    calls: Mapping[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> list[str]:
        """The calls that leave torch, numpy and the standard containers."""
        usual = ("torch", "numpy", "collections", "_codecs")
        return [name for name in self.calls if name.partition(".")[0] not in usual]


def name_filter(pattern: str) -> Callable[[str], bool]:
    """Return a test of names: a glob where the pattern has `*`, `?` or `[`, else whether it is part of the name."""
    if any(char in pattern for char in "*?["):
        return lambda name: fnmatchcase(name, pattern)
    return lambda name: pattern in name


def nbytes(ref: TensorRef) -> int:
    """Return the bytes of a tensor's elements."""
    return ref.numel * ref.element.itemsize


def inspection_data(inspection: Inspection, wanted: Callable[[str], bool] = lambda _: True) -> Json:
    """Turn an inspection into plain data; every tensor is in it, whatever the text report folds."""
    diagnosis = inspection.diagnosis
    reasons = {each.ref: each.reason for each in diagnosis.skipped}
    tensors = []
    for ref in diagnosis.refs:
        if not wanted(ref.path):
            continue
        twin = inspection.shared.get(ref)
        measure = diagnosis.measures.get(ref)
        tensors.append(
            {
                **ref_data(ref),
                "bytes": nbytes(ref),
                "shares_storage_with": twin.path if twin else None,
                "measure": measure_data(measure) if measure else None,
                "unreadable": reasons.get(ref, ""),
            }
        )
    return {
        "source": diagnosis.source,
        "format": diagnosis.format,
        "bytes": diagnosis.nbytes,
        "checked": diagnosis.checked,
        "model_container": diagnosis.main,
        "tensors": tensors,
        "scalars": [scalar_data(each) for each in diagnosis.scalars if wanted(each.dotted)],
        "calls": dict(inspection.calls),
    }
