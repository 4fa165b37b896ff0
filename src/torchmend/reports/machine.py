"""Diagnoses and repairs as plain data for JSON. The schema is `diagnosis.schema.json` beside this file."""

import math
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import Change, CopyDamaged, Edit, FillAll, FillDamaged, RepairPlan, ScalarEdit, Values
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports.summary import summarise

SCHEMA_VERSION = 1
"""Grows by one when a field changes its meaning or goes; new fields may come at any time."""

Json = dict[str, Any]


def envelope(results: list[Json]) -> Json:
    """Wrap results in the object that every JSON report is."""
    return {
        "schema": SCHEMA_VERSION,
        "tool": {"name": "torchmend", "version": metadata.version("torchmend")},
        "results": results,
    }


def diagnosis_data(diagnosis: Diagnosis, shown: Sequence[Finding] | None = None) -> Json:
    """Turn a diagnosis into plain data; `shown` are the findings to list, all when None."""
    summary = summarise(diagnosis)
    return {
        "source": diagnosis.source,
        "format": diagnosis.format,
        "bytes": diagnosis.nbytes,
        "bytes_scanned": diagnosis.scanned,
        "verdict": summary.verdict.value,
        "checked": diagnosis.checked,
        "model_container": diagnosis.main,
        "entries": summary.entries,
        "corrupted": {
            "statistics": summary.statistics,
            "weights": summary.weights,
            "optimizer": summary.optimizer,
            "metadata": summary.metadata,
        },
        "findings": [_finding(each) for each in (diagnosis.findings if shown is None else shown)],
        "skipped": [{**ref_data(each.ref), "reason": each.reason} for each in diagnosis.skipped],
    }


def plan_data(plan: RepairPlan) -> Json:
    """Turn a plan into plain data."""
    return {
        "edits": [_edit(edit) for edit in plan.edits],
        "scalars": [_scalar_edit(edit) for edit in plan.scalars],
        "refused": [{**_about(each.about), "reason": each.reason} for each in plan.refused],
    }


def _finding(finding: Finding) -> Json:
    return {
        "code": finding.code.value,
        "severity": finding.severity.label,
        "message": finding.message,
        "remedy": finding.remedy,
        "tensor": ref_data(finding.ref) if finding.ref else None,
        "measure": measure_data(finding.measure) if finding.measure else None,
        "scalar": scalar_data(finding.scalar) if finding.scalar else None,
        "detail": finding.detail,
    }


def scalar_data(scalar: Scalar) -> Json:
    """Turn a scalar into plain data; NaN and Inf become texts."""
    value = scalar.value
    odd = isinstance(value, float) and not math.isfinite(value)
    return {"path": list(scalar.path), "value": str(value) if odd else value}


def _about(about: TensorRef | Scalar) -> Json:
    return ref_data(about) if isinstance(about, TensorRef) else scalar_data(about)


def ref_data(ref: TensorRef) -> Json:
    """Turn a tensor's name and nature into plain data."""
    return {
        "container": ref.container,
        "name": ref.name,
        "shape": list(ref.shape),
        "dtype": ref.dtype,
        "role": ref.role.value,
        "param": ref.param,
        "averaged": ref.averaged,
    }


def measure_data(measure: Measure) -> Json:
    """Turn a measure into plain data; what is not finite becomes null."""
    return {
        "numel": measure.numel,
        "nan": measure.nan,
        "pos_inf": measure.pos_inf,
        "neg_inf": measure.neg_inf,
        "negative": measure.negative,
        "zeros": measure.zeros,
        "absmax": number(measure.absmax),
        "minimum": number(measure.minimum),
        "maximum": number(measure.maximum),
        "bad_channels": list(measure.bad_channels) if measure.bad_channels is not None else None,
    }


def _edit(edit: Edit) -> Json:
    return {
        **ref_data(edit.ref),
        "count": edit.count,
        "rung": edit.rung.value,
        "method": edit.method,
        "approximate": edit.approximate,
        "error": number(edit.error),
        "reason": edit.reason,
        "codes": [code.value for code in edit.codes],
        "change": _change(edit.change),
    }


def _scalar_edit(edit: ScalarEdit) -> Json:
    return {
        **scalar_data(edit.scalar),
        "becomes": edit.value if math.isfinite(edit.value) else str(edit.value),
        "rung": edit.rung.value,
        "reason": edit.reason,
        "codes": [code.value for code in edit.codes],
    }


def _change(change: Change) -> Json:
    match change:
        case Values():
            return {"kind": "values", "index": list(change.index), "values": list(change.values)}
        case FillDamaged():
            return {"kind": "fill damaged", "value": change.value, "also": [ref.path for ref in change.also]}
        case FillAll():
            return {"kind": "fill all", "value": change.value}
        case CopyDamaged():
            return {"kind": "copy damaged", "source": change.source, "tensor": change.ref.path}


def number(value: float | None) -> float | None:
    """Return a number that JSON can hold; None for NaN and Inf."""
    return value if value is not None and math.isfinite(value) else None
