"""What is in a file, as a tree for a terminal."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torchmend.facts.findings import Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.inspection import Inspection, nbytes
from torchmend.reports.inspection_tree import Folder, Node, together, tree
from torchmend.reports.wording import Paint, copy_of, counted, plain, size

WIDEST_NAME = 60
MOST_SIBLINGS = 100
"""Lines at one level of the tree; --filter and --format json reach the rest."""
MOST_SCALARS = 20
MOST_CALLS = 8
_TELLING = ("lr", "iteration", "global_step", "step", "epoch", "loss", "best")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How much to show.

    Args:
        depth: Levels of the tree; all, with alike blocks folded, when None.
        wanted: A test of paths; everything when None.
        stats: Whether to write counts of zeros and negatives too.
    """

    depth: int | None = None
    wanted: Callable[[str], bool] | None = None
    stats: bool = False


def inspection_text(inspection: Inspection, view: View | None = None, paint: Paint = plain) -> str:
    """Render an inspection, without a final newline."""
    view = view or View()
    diagnosis = inspection.diagnosis
    wanted = view.wanted or (lambda _: True)
    refs = [ref for ref in diagnosis.refs if wanted(ref.path)]
    numel = sum(ref.numel for ref in refs if ref not in inspection.shared)
    details = [diagnosis.format, size(diagnosis.nbytes), counted(len(refs), "tensor"), counted(numel, "element")]
    lines = [f"{paint(diagnosis.source, 'bold')} ({', '.join(details)})"]
    for container in dict.fromkeys(ref.container for ref in refs):
        members = [ref for ref in refs if ref.container == container]
        lines += ["", *_container(inspection, container, members, view, paint)]
    scalars = [each for each in diagnosis.scalars if wanted(each.dotted) and (view.wanted or not _is_index(each))]
    if scalars:
        lines += ["", *_scalars(scalars, paint, everything=view.wanted is not None)]
    if inspection.foreign:
        lines += ["", *_calls(inspection, paint)]
    if not refs and not scalars:
        lines += ["", "  Nothing in this file has such a name." if view.wanted else "  No tensors and no numbers."]
    return "\n".join(lines)


def _container(
    inspection: Inspection, container: str, members: list[TensorRef], view: View, paint: Paint
) -> Iterator[str]:
    total = sum(nbytes(ref) for ref in members if ref not in inspection.shared)
    mark = "   the model" if container == inspection.diagnosis.main else ""
    yield f"{paint(container or '(root)', 'cyan')}   {counted(len(members), 'tensor')}   {size(total)}{mark}"
    nodes = tree(members)
    if view.depth is None and view.wanted is None:
        damaged = frozenset(
            ref for ref in members if (m := inspection.diagnosis.measures.get(ref)) is not None and m.nonfinite
        )
        nodes = Folder(damaged, loose=any(ref.role.is_optimizer for ref in members)).fold(nodes)
    rows = list(_rows(nodes, inspection, view, paint, 1))
    width = min(max((len(name) for name, _ in rows), default=0), WIDEST_NAME)
    for name, text in rows:
        yield f"{name:<{width}}  {text}".rstrip()


def _rows(
    nodes: Sequence[Node], inspection: Inspection, view: View, paint: Paint, level: int
) -> Iterator[tuple[str, str]]:
    indent = "  " * level
    most = len(nodes) if view.depth is not None or view.wanted is not None else MOST_SIBLINGS
    for node in nodes[:most]:
        alike = f" ({node.alike} alike)" if node.alike > 1 else ""
        if node.refs:
            yield f"{indent}{node.name}{alike}", _leaf(node.refs, inspection, view, paint)
        if not node.children:
            continue
        if view.depth is not None and level >= view.depth:
            inside = list(node.tensors())
            yield f"{indent}{node.name}", _heap(inside, inspection, paint)
            continue
        if not node.refs:
            yield f"{indent}{node.name}{alike}", ""
        yield from _rows(node.children, inspection, view, paint, level + 1)
    if len(nodes) > most:
        yield f"{indent}and {len(nodes) - most:,} more", "--filter and --format json show them"


def _heap(refs: list[TensorRef], inspection: Inspection, paint: Paint) -> str:
    measures = inspection.diagnosis.measures
    parts = [counted(len(refs), "tensor"), size(sum(map(nbytes, refs)))]
    return "   ".join([*parts, _range(together(measures[ref] for ref in refs if ref in measures), View(), paint)])


def _leaf(refs: list[TensorRef], inspection: Inspection, view: View, paint: Paint) -> str:
    first = refs[0]
    diagnosis = inspection.diagnosis
    shapes, dtypes = {ref.shape for ref in refs}, {ref.dtype for ref in refs}
    kind = first.dtype if len(dtypes) == 1 else "several types"
    form = str(list(first.shape)) if len(shapes) == 1 else "shapes vary"
    measure = together(diagnosis.measures[ref] for ref in refs if ref in diagnosis.measures)
    parts = [f"{kind + ' ' + form:<26}", f"{size(sum(map(nbytes, refs))):>9}"]
    parts.append(_range(measure, view, paint))
    if role := _role(first):
        parts.append(paint(role, "cyan"))
    if len(refs) == 1 and first in inspection.shared:
        parts.append(paint(f"tied: same storage as {_twin(inspection.shared[first], first)}", "yellow"))
    elif shared := sum(ref in inspection.shared for ref in refs):
        parts.append(paint(f"{shared:,} tied to others", "yellow"))
    if first.role.is_optimizer and first.param and len(refs) == 1:
        parts.append(f"of {first.param}")
    reason = next((each.reason for each in diagnosis.skipped if each.ref == first), "") if diagnosis.skipped else ""
    if reason:
        parts.append(paint(f"not readable: {reason}", "red"))
    return "   ".join(part for part in parts if part)


def _twin(twin: TensorRef, ref: TensorRef) -> str:
    return twin.name if twin.container == ref.container else twin.path


def _role(ref: TensorRef) -> str:
    """Return the role where the name does not say it already."""
    if ref.role.is_statistic or ref.role in (Role.BATCH_COUNT, Role.METADATA) or ref.role.value == ref.leaf:
        return copy_of(ref)
    return copy_of(ref, " of a ") + ref.role.value


def _range(measure: Measure | None, view: View, paint: Paint) -> str:
    if measure is None:
        return ""
    if measure.minimum is not None and measure.maximum is not None:
        text = f"{measure.minimum:.3g} .. {measure.maximum:.3g}"
    elif measure.numel == measure.nonfinite:
        text = "" if measure.numel else "empty"
    else:
        text = f"|max| {measure.absmax:.3g}"
    if view.stats and measure.zeros is not None:
        text += f"   zeros {measure.zeros:,}   below zero {measure.negative or 0:,}"
    if measure.nan:
        text += "   " + paint(f"NaN {measure.nan:,} / {measure.numel:,}", "red")
    if measure.inf:
        text += "   " + paint(f"Inf {measure.inf:,} / {measure.numel:,}", "red")
    return text.strip()


def _scalars(scalars: list[Scalar], paint: Paint, *, everything: bool) -> Iterator[str]:
    yield f"{paint('metadata', 'cyan')}   {counted(len(scalars), 'number or text', 'numbers and texts')}"
    ordered = sorted(scalars, key=lambda each: (_is_finite(each), len(each.path) > 1, not _is_telling(each)))
    shown = ordered if everything else ordered[:MOST_SCALARS]
    width = min(max(len(each.dotted) for each in shown), WIDEST_NAME)
    for each in shown:
        value = repr(each.value) if isinstance(each.value, str) else f"{each.value}"
        short = value if len(value) <= 80 else f"{value[:77]}..."
        yield f"  {each.dotted:<{width}}  {short if _is_finite(each) else paint(short, 'red')}"
    if len(scalars) > len(shown):
        yield f"  and {len(scalars) - len(shown):,} more; --filter and --format json show them"


def _is_index(scalar: Scalar) -> bool:
    """Return whether it only numbers a parameter of an optimizer's group (`param_groups.0.params.5`)."""
    return len(scalar.path) > 1 and scalar.path[-2] == "params" and scalar.value == scalar.path[-1]


def _is_finite(scalar: Scalar) -> bool:
    return not isinstance(scalar.value, float) or math.isfinite(scalar.value)


def _is_telling(scalar: Scalar) -> bool:
    return scalar.leaf.startswith(_TELLING)


def _calls(inspection: Inspection, paint: Paint) -> Iterator[str]:
    names = inspection.foreign
    yield f"{paint('calls', 'yellow')}   what the pickle would import and call if it were loaded (here it was not)"
    yield from (f"  {name}" for name in names[:MOST_CALLS])
    if len(names) > MOST_CALLS:
        yield f"  and {len(names) - MOST_CALLS:,} more; --format json lists all"
