"""Two checkpoint files in, what changed between them out. Chunk by chunk: no tensor is ever held whole."""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from torchmend.doctor.deltas import Piece, are_equal, distinct_pair, piece_delta, run
from torchmend.doctor.diagnosing import diagnose_file, diagnose_source
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.facts.codes import Code
from torchmend.facts.dtypes import Kind as Element
from torchmend.facts.errors import FileError
from torchmend.facts.findings import Diagnosis
from torchmend.facts.sources import Vector
from torchmend.facts.tensors import NormLayer, Scalar, TensorRef
from torchmend.measure.fetch import VECTOR_LIMIT
from torchmend.reports.comparison import Comparison, Delta, Drift, Kind, ScalarChange, TensorChange, errors_of, scaled
from torchmend.rules.layers import norm_layers
from torchmend.rules.roles import main_container, plain_name

Wanted = Callable[[str], bool]
Pair = tuple[TensorRef, TensorRef]
_Codes = tuple[tuple[Code, ...], tuple[Code, ...]]

EPSILON = 1e-5
"""What BatchNorm adds to a variance by default: dead channels count on the scale that the network sees."""


def compare_files(
    before: Path, after: Path, progress: ScanProgress | None = None, wanted: Wanted | None = None
) -> Comparison:
    """Compare two checkpoints.

    Args:
        before: A.
        after: B.
        progress: Told how far the diagnosis of each file is.
        wanted: Says of a tensor's or a scalar's path whether it is asked for; everything when None.

    Returns:
        The comparison. Where a file cannot be read it holds the two diagnoses and nothing else.

    Raises:
        SourceChangedError: A file was written to while it was being read.
    """
    with ExitStack() as stack:
        opened = []
        for path in (before, after):
            try:
                opened.append(stack.enter_context(FileSource(path)))
            except FileError:
                return Comparison(before=diagnose_file(before, progress), after=diagnose_file(after, progress))
        for source in opened:
            source.report_to(progress)
        compared = compare_sources(*opened, wanted=wanted)
        for source in opened:
            source.contents.check_unchanged()
        return compared


def compare_sources(before: FileSource, after: FileSource, *, wanted: Wanted | None = None) -> Comparison:
    """Compare two files that are already open."""
    a, b = diagnose_source(before), diagnose_source(after)
    asked = wanted or (lambda _: True)
    pairs, removed, added = match(before.refs, after.refs)
    (bad_a, _), (bad_b, _) = errors_of(a), errors_of(b)
    twins = {new: old for old, new in pairs}
    outside = sum(twins.get(ref) not in bad_a for ref in bad_b if not asked(ref.path))  # who filters must know
    kept = [pair for pair in pairs if asked(pair[1].path)]
    deltas = _deltas(before, after, kept)
    found: dict[TensorRef, TensorChange] = {}
    for old, new in kept:
        if before.is_readable(old) and after.is_readable(new):
            found[new] = _judged(old, new, deltas.get(new), (bad_a.get(old, ()), bad_b.get(new, ())))
        else:
            found[new] = TensorChange(kind=Kind.NOT_COMPARED, before=old, after=new)
    for ref in added:
        if asked(ref.path):
            kind = Kind.BROKE if ref in bad_b else Kind.ADDED
            found[ref] = TensorChange(kind=kind, before=None, after=ref, codes=bad_b.get(ref, ()))
    gone = (TensorChange(kind=Kind.REMOVED, before=ref, after=None) for ref in removed if asked(ref.path))
    return Comparison(
        before=a,
        after=b,
        changes=(*(found[ref] for ref in after.refs if ref in found), *gone),
        drifts=_drifts(before, after, pairs, asked),
        scalars=tuple(each for each in scalar_changes(a, b) if asked(each.dotted)),
        outside=outside,
    )


# Which tensor is which


def match(
    before: Sequence[TensorRef], after: Sequence[TensorRef]
) -> tuple[list[Pair], list[TensorRef], list[TensorRef]]:
    """Pair the tensors of two sources: first by container and name, then by the name without wrappers.

    The main containers count as the same, whatever they are called.

    Returns:
        The pairs, those that only A has, and those that only B has.
    """
    main_a, main_b = main_container(before), main_container(after)
    taken = {ref.container for ref in before}

    def home(ref: TensorRef) -> str:
        return main_a if ref.container == main_b and main_b not in taken else ref.container

    pairs: list[Pair] = []
    left_a, left_b = list(before), list(after)
    for name in (_full, _plain):
        by_key: dict[Hashable, TensorRef] = {}
        for ref in left_a:
            by_key.setdefault((ref.container, name(ref)), ref)
        rest = []
        for ref in left_b:
            old = by_key.pop((home(ref), name(ref)), None)
            if old is None:
                rest.append(ref)
            else:
                pairs.append((old, ref))
        used = {old for old, _ in pairs}
        left_a, left_b = [ref for ref in left_a if ref not in used], rest
    return pairs, left_a, left_b


def _full(ref: TensorRef) -> Hashable:
    return ref.name


def _plain(ref: TensorRef) -> Hashable:
    return ref.averaged, ref.master, plain_name(ref.name)


def scalar_changes(before: Diagnosis, after: Diagnosis) -> Iterator[ScalarChange]:
    """List the metadata that differ; NaN equals NaN here."""
    (_, bad_a), (_, bad_b) = errors_of(before), errors_of(after)
    old = {scalar.path: scalar for scalar in before.scalars}
    new = {scalar.path: scalar for scalar in after.scalars}
    for path in (*new, *(path for path in old if path not in new)):
        a, b = old.get(path), new.get(path)
        if a is None or b is None or not _equal(a, b):
            yield ScalarChange(path=path, before=a, after=b, broke=path in bad_b and path not in bad_a)


def _equal(a: Scalar, b: Scalar) -> bool:
    if isinstance(a.value, float) and isinstance(b.value, float) and math.isnan(a.value) and math.isnan(b.value):
        return True
    return a.value == b.value


def _judged(old: TensorRef, new: TensorRef, delta: Delta | None, codes: _Codes) -> TensorChange:
    """Decide what became of a tensor that both have; `delta` is None where the bits are the same."""
    was, now = codes
    if (old.shape, old.dtype) != (new.shape, new.dtype):
        kind = Kind.BROKE if now and not was else Kind.HEALED if was and not now else Kind.RESHAPED
    elif now and (not was or (delta is not None and delta.broke)):
        kind = Kind.BROKE
    elif was and not now:
        kind = Kind.HEALED
    else:
        kind = Kind.UNCHANGED if delta is None else Kind.CHANGED
    return TensorChange(
        kind=kind,
        before=old,
        after=new,
        delta=delta,
        codes=now or was,
        still_damaged=bool(was and now),
    )


# How far elements moved


def _deltas(before: FileSource, after: FileSource, pairs: Iterable[Pair]) -> dict[TensorRef, Delta]:
    """Measure the pairs of one shape and type whose bits differ; one entry each, by B's tensor."""
    work: dict[TensorRef, tuple[Piece, int]] = {}
    for old, new in pairs:
        if (old.shape, old.dtype) == (new.shape, new.dtype) and before.is_readable(old) and after.is_readable(new):
            a, b, repeats = distinct_pair(before.raw(old), after.raw(new))
            work[new] = (new, a, b, new.element, new.role.is_nonnegative), repeats
    same: dict[Hashable, bool] = {}
    for key, equal in run(are_equal, (piece for piece, _ in work.values())):
        same[key] = same.get(key, True) and equal
    totals = {ref: Delta() for ref in work if not same.get(ref, True)}
    for key, delta in run(piece_delta, (work[ref][0] for ref in totals)):
        assert isinstance(key, TensorRef)
        totals[key] += delta
    return {ref: scaled(delta, work[ref][1]) for ref, delta in totals.items()}


# Normalisation statistics


def _drifts(before: FileSource, after: FileSource, pairs: Iterable[Pair], asked: Wanted) -> tuple[Drift, ...]:
    old_of = {new: old for old, new in pairs if old.shape == new.shape}
    found = []
    for layer in norm_layers(after.refs):
        mean, var = old_of.get(layer.mean), old_of.get(layer.var)
        if mean is None or var is None or not (asked(layer.mean.path) or asked(layer.var.path)):
            continue
        if not all(_is_vector(before, ref) for ref in (mean, var)):
            continue
        if not all(_is_vector(after, ref) for ref in (layer.mean, layer.var)):
            continue
        vectors = (before.vector(mean), before.vector(var), after.vector(layer.mean), after.vector(layer.var))
        if (moved := drift(layer, *vectors)) is not None:
            found.append(moved)
    return tuple(sorted(found, key=lambda each: -each.size))


def _is_vector(source: FileSource, ref: TensorRef) -> bool:
    return source.is_readable(ref) and ref.numel <= VECTOR_LIMIT and ref.element.kind is Element.FLOAT


def drift(layer: NormLayer, mean_a: Vector, var_a: Vector, mean_b: Vector, var_b: Vector) -> Drift | None:
    """Say how far a layer's statistics moved; None where they did not, or no channel is sound in both.

    Args:
        layer: In B.
        mean_a: Running mean in A, shape [channels]; the others likewise.
        var_a: Running variance in A.
        mean_b: Running mean in B.
        var_b: Running variance in B.
    """
    if len({v.size for v in (mean_a, var_a, mean_b, var_b)}) != 1:
        return None
    with np.errstate(invalid="ignore", over="ignore"):
        sound = np.isfinite(mean_a) & np.isfinite(mean_b) & np.isfinite(var_a) & np.isfinite(var_b)
        sound &= (var_a >= 0) & (var_b >= 0)
        if not sound.any() or (np.array_equal(mean_a, mean_b) and np.array_equal(var_a, var_b)):
            return None
        shift = np.abs(mean_b - mean_a)[sound] / np.sqrt(var_a[sound] + EPSILON)
        ratio = np.sqrt((var_b[sound] + EPSILON) / (var_a[sound] + EPSILON))
    return Drift(
        container=layer.container,
        layer=layer.prefix,
        averaged=layer.averaged,
        channels=int(sound.sum()),
        shift=float(shift.max()),
        typical_shift=float(np.median(shift)),
        widest=float(ratio.max()),
        narrowest=float(ratio.min()),
        channel=int(np.flatnonzero(sound)[shift.argmax()]),
    )
