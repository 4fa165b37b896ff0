"""DeepSpeed checkpoints: a folder with a file of the model's state and, under ZeRO, one of optimizer state a rank.

Under ZeRO 1 and 2 the float32 master weights and the moments of a group of parameters are one flat vector, cut into
equal stretches, one a rank; which parameter lies where follows from the shapes and their order, which the model's
file tells. The stretches are listed parameter by parameter, so that they have names, and the masters can be donors.
Under ZeRO 3 every parameter is cut itself; its stretches stay as they are.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from torchmend.facts.tensors import Scalar
from torchmend.formats.contents import Contents, StoredTensor
from torchmend.formats.folders import Part, joined_contents, read_all
from torchmend.formats.protocols import Claim, ReadFile

_MODEL, _OPTIMIZER = "_model_states.pt", "_optim_states.pt"
_RANKS = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt$")
_STATE = "optimizer_state_dict"
_MASTERS = re.compile(rf"{_STATE}\.single_partition_of_fp32_groups\.(\d+)")
_MOMENTS = re.compile(rf"{_STATE}\.base_optimizer_state\.state\.(\d+)\.(\w+)")
_PADDING_PER_RANK = 32
"""A flat vector is padded to a multiple of the ranks times a small power of two; more is no padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    """A parameter's stretch of its group's flat vector."""

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def end(self) -> int:
        return self.start + prod(self.shape)


Layout = Mapping[int, Sequence[_Parameter]]
"""For each group, its parameters in the order of the flat vector."""


def claims(folder: Path) -> list[Claim]:
    """Claim the files of a folder that are named as DeepSpeed names them, if a model's is among them."""
    files = [path for path in folder.glob("*.pt") if path.name.endswith((_MODEL, _OPTIMIZER))]
    if not any(path.name.endswith(_MODEL) for path in files):
        return []
    return [Claim(path=folder, files=frozenset(files))]


def read(path: Path, read_file: ReadFile) -> Contents:
    """Read every file; flat vectors get the names of the parameters that lie in them.

    Raises:
        FileError: None of the files can be read.
    """
    (claim,) = claims(path)
    files = sorted(claim.files or (), key=lambda file: (not file.name.endswith(_MODEL), _rank(file), file.name))
    read_parts, problems = read_all(files, read_file)
    models = {file: part for file, part in read_parts.items() if file.name.endswith(_MODEL)}
    named = _named(read_parts, {_model_rank(file): _layout(part.scalars) for file, part in models.items()})
    parts = [
        Part(contents=named[file], prefix=() if len(models) == 1 and file in models else (file.stem,))
        for file in read_parts
    ]
    return joined_contents(parts, format="DeepSpeed checkpoint", folder=path, problems=problems)


def _rank(file: Path) -> tuple[int, int]:
    found = _RANKS.search(file.name)
    return (int(found[2]), int(found[1])) if found else (0, 0)


def _model_rank(file: Path) -> int:
    found = re.search(r"mp_rank_(\d+)_model_states", file.name)
    return int(found[1]) if found else 0


def _layout(scalars: Sequence[Scalar]) -> Layout:
    """Read `param_shapes`: a list of groups, each a mapping of names to sizes."""
    shapes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for scalar in scalars:
        match scalar.path:
            case ("param_shapes", int(group), str(name), 0, int()) if isinstance(scalar.value, int):
                shapes[group][name].append(scalar.value)
    return {group: list(_laid_out(named)) for group, named in shapes.items()}


def _laid_out(shapes: Mapping[str, Sequence[int]]) -> Iterator[_Parameter]:
    start = 0
    for name, shape in shapes.items():
        yield _Parameter(name=name, shape=tuple(shape), start=start)
        start += prod(shape)


def _named(parts: Mapping[Path, Contents], layouts: Mapping[int, Layout]) -> dict[Path, Contents]:
    """Cut the flat vectors of every optimizer file where a layout fits them."""
    flat: dict[tuple[int, int, str], list[tuple[Path, StoredTensor]]] = defaultdict(list)
    for file, contents in parts.items():
        if _RANKS.search(file.name):
            for tensor in contents.tensors:
                if (found := _flat(tensor)) is not None:
                    flat[(_rank(file)[0], *found)].append((file, tensor))
    cut: dict[tuple[Path, int], list[StoredTensor]] = {}
    for (model, group, leaf), stretches in flat.items():
        layout = layouts.get(model, {}).get(group, ())
        wanted, have = (layout[-1].end if layout else 0), sum(tensor.numel for _, tensor in stretches)
        if not 0 < wanted <= have <= wanted + _PADDING_PER_RANK * len(stretches):
            continue
        start = 0
        for file, tensor in stretches:
            cut[file, id(tensor)] = list(_cut(tensor, leaf, start, layout))
            start += tensor.numel
    return {file: _with_pieces(file, contents, cut) for file, contents in parts.items()}


def _flat(tensor: StoredTensor) -> tuple[int, str] | None:
    """Return the group of a flat vector, and which moment it is (empty for the masters); None for other tensors."""
    path = f"{tensor.container}.{tensor.name}"
    if len(tensor.shape) != 1 or tensor.strides not in ((1,), (0,)):
        return None
    if found := _MASTERS.fullmatch(path):
        return int(found[1]), ""
    found = _MOMENTS.fullmatch(path)
    return (int(found[1]), found[2]) if found else None


def _cut(flat: StoredTensor, leaf: str, start: int, layout: Sequence[_Parameter]) -> Iterator[StoredTensor]:
    """Yield the parameters' stretches of a flat vector that begins at `start` of its group's."""
    for each in layout:
        low, high = max(each.start, start), min(each.end, start + flat.numel)
        if low >= high:
            continue
        whole = (low, high) == (each.start, each.end)
        name = each.name if whole else f"{each.name}[{low - each.start}:{high - each.start}]"
        shape = each.shape if whole else (high - low,)
        strides = tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
        container = f"{_STATE}.base_optimizer_state" if leaf else f"{_STATE}.fp32_master"
        yield replace(
            flat,
            container=container,
            name=f"state.{name}.{leaf}" if leaf else name,
            shape=shape,
            strides=strides,
            offset=flat.offset + low - start,
        )


def _with_pieces(file: Path, contents: Contents, cut: Mapping[tuple[Path, int], list[StoredTensor]]) -> Contents:
    tensors: list[StoredTensor] = []
    names: dict[str, None] = {}
    for tensor in contents.tensors:
        pieces = cut.get((file, id(tensor)))
        tensors += [tensor] if pieces is None else pieces
        names |= dict.fromkeys(
            piece.name.removeprefix("state.").rpartition(".")[0] for piece in pieces or () if piece.name[:6] == "state."
        )
    optimizer = f"{_STATE}.base_optimizer_state"
    optimizers = contents.optimizers | ({optimizer: tuple((name, name) for name in names)} if names else {})
    return replace(contents, tensors=tuple(tensors), optimizers=optimizers)
