"""Names folded into a tree, and alike siblings (`layers.0` to `layers.95`) into one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torchmend.facts.findings import Measure
from torchmend.facts.tensors import TensorRef

FEWEST_ALIKE = 3
"""Fewer blocks than this are shown one by one."""


@dataclass(slots=True, kw_only=True)
class Node:
    """A prefix with what is under it, or a tensor.

    Args:
        name: The last components of the prefix; `0..95` where blocks are folded.
        refs: The tensor, or, in a folded block, that tensor of every block.
        children: In the file's order.
        alike: How many blocks this one stands for.
    """

    name: str
    refs: list[TensorRef] = field(default_factory=list)
    children: list["Node"] = field(default_factory=list)
    alike: int = 1

    def tensors(self) -> Iterator[TensorRef]:
        """Yield every tensor at or under it."""
        yield from self.refs
        for child in self.children:
            yield from child.tensors()


def tree(refs: Iterable[TensorRef]) -> list[Node]:
    """Fold names by prefix; a prefix with a single child is joined with it."""
    root = Node(name="")
    index: dict[tuple[int, str], Node] = {}
    for ref in refs:
        node = root
        for part in ref.name.split("."):
            key = (id(node), part)
            if key not in index:
                index[key] = Node(name=part)
                node.children.append(index[key])
            node = index[key]
        node.refs.append(ref)
    return [_joined(child) for child in root.children]


def _joined(node: Node) -> Node:
    while len(node.children) == 1 and not node.refs:
        only = node.children[0]
        node = Node(name=f"{node.name}.{only.name}", refs=only.refs, children=only.children)
    node.children = [_joined(child) for child in node.children]
    return node


class Folder:
    """Fold runs of numbered siblings that have the same members.

    Args:
        damaged: Tensors that must stay visible: a block that holds one is not folded with sound ones.
        loose: Whether shapes may differ (optimizer state: one block a parameter).
    """

    def __init__(self, damaged: frozenset[TensorRef] = frozenset(), *, loose: bool = False) -> None:
        self._damaged = damaged
        self._loose = loose
        self._numbers: dict[object, int] = {}

    def fold(self, nodes: list[Node]) -> list[Node]:
        """Return the nodes with runs of alike ones folded, at every level."""
        return self._fold(nodes)[0]

    def _fold(self, nodes: list[Node]) -> tuple[list[Node], tuple[int, ...]]:
        signed = [self._signed(node) for node in nodes]
        result: list[Node] = []
        start = 0
        while start < len(signed):
            stop = start + 1
            kind = _kind(*signed[start])
            while kind is not None and stop < len(signed) and _kind(*signed[stop]) == kind:
                stop += 1
            run = [node for node, _ in signed[start:stop]]
            result += [_merged(run)] if len(run) >= FEWEST_ALIKE else run
            start = stop
        return result, tuple(self._number((node.name, sign)) for node, sign in signed)

    def _signed(self, node: Node) -> tuple[Node, int]:
        """Return the node folded inside, and a number that alike nodes share."""
        children, signs = self._fold(node.children)
        own = tuple(
            (() if self._loose else (ref.shape, ref.dtype), ref.role, ref in self._damaged) for ref in node.refs
        )
        return Node(name=node.name, refs=node.refs, children=children, alike=node.alike), self._number((own, signs))

    def _number(self, key: object) -> int:
        return self._numbers.setdefault(key, len(self._numbers))


def _kind(node: Node, sign: int) -> tuple[str, int] | None:
    """Return what neighbours share that may be folded with it; None unless its name starts with a number."""
    number, _, rest = node.name.partition(".")
    return (rest, sign) if number.isdigit() else None


def _span(first: str, last: str) -> str:
    """Join `0.conv` and `95.conv` to `0..95.conv`."""
    number, dot, rest = first.partition(".")
    return f"{number}..{last.partition('.')[0]}{dot}{rest}"


def _merged(run: list[Node], name: str = "") -> Node:
    first = run[0]
    return Node(
        name=name or _span(first.name, run[-1].name),
        refs=[ref for node in run for ref in node.refs],
        children=[_merged(list(each), each[0].name) for each in zip(*(node.children for node in run), strict=True)],
        alike=first.alike if name else len(run),
    )


def together(measures: Iterable[Measure]) -> Measure | None:
    """Combine what was measured of several tensors; the range only if it was measured in all. None without any."""
    parts = list(measures)
    if not parts:
        return None
    lows = [part.minimum for part in parts if part.minimum is not None]
    highs = [part.maximum for part in parts if part.maximum is not None]
    whole = all(part.minimum is not None or part.numel == part.nonfinite for part in parts)
    return Measure(
        numel=sum(part.numel for part in parts),
        nan=sum(part.nan for part in parts),
        pos_inf=sum(part.pos_inf for part in parts),
        neg_inf=sum(part.neg_inf for part in parts),
        absmax=max(part.absmax for part in parts),
        negative=sum(part.negative or 0 for part in parts) if all(p.negative is not None for p in parts) else None,
        zeros=sum(part.zeros or 0 for part in parts) if all(p.zeros is not None for p in parts) else None,
        minimum=min(lows) if whole and lows else None,
        maximum=max(highs) if whole and highs else None,
    )
