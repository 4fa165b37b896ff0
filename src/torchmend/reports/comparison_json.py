"""A comparison as plain data for JSON."""

from torchmend.reports import machine
from torchmend.reports.comparison import Comparison, Drift, Kind, ScalarChange, TensorChange, figures, sentence
from torchmend.reports.machine import Json, number, scalar_data
from torchmend.reports.summary import summarise


def comparison_data(comparison: Comparison) -> Json:
    """Turn a comparison into plain data. Tensors that did not change are only counted."""
    return {
        "before": _side(comparison, "before"),
        "after": _side(comparison, "after"),
        "checked": comparison.checked,
        "broke": comparison.broke,
        "broke_outside_filter": comparison.outside,
        "counts": {kind.value: len(comparison.of(kind)) for kind in Kind},
        "figures": figures(comparison),
        "sentence": sentence(comparison),
        "tensors": [_change(each) for each in comparison.changes if each.kind is not Kind.UNCHANGED],
        "drifts": [_drift(each) for each in comparison.drifts],
        "scalars": [_scalar(each) for each in comparison.scalars],
    }


def _side(comparison: Comparison, side: str) -> Json:
    diagnosis = comparison.before if side == "before" else comparison.after
    return {
        "source": diagnosis.source,
        "format": diagnosis.format,
        "bytes": diagnosis.nbytes,
        "verdict": summarise(diagnosis).verdict.value,
        "model_container": diagnosis.main,
        "unreadable": [f"{each.message} {each.remedy}" for each in diagnosis.findings if each.code.means_unchecked],
    }


def _change(change: TensorChange) -> Json:
    delta = change.delta
    return {
        **machine.ref_data(change.ref),
        "kind": change.kind.value,
        "before": machine.ref_data(change.before) if change.before else None,
        "codes": [code.value for code in change.codes],
        "still_damaged": change.still_damaged,
        "numel": change.ref.numel,
        "broke": delta.broke if delta else 0,
        "healed": delta.healed if delta else 0,
        "relative_change": number(delta.relative) if delta else None,
        "largest_change": number(delta.largest) if delta else None,
    }


def _drift(drift: Drift) -> Json:
    return {
        "container": drift.container,
        "layer": drift.layer,
        "averaged": drift.averaged,
        "channels": drift.channels,
        "mean_shift": number(drift.shift),
        "median_mean_shift": number(drift.typical_shift),
        "width_largest": number(drift.widest),
        "width_smallest": number(drift.narrowest),
        "channel": drift.channel,
    }


def _scalar(change: ScalarChange) -> Json:
    return {
        "path": list(change.path),
        "before": scalar_data(change.before)["value"] if change.before else None,
        "after": scalar_data(change.after)["value"] if change.after else None,
        "in_before": change.before is not None,
        "in_after": change.after is not None,
        "broke": change.broke,
    }
