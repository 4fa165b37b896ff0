"""A checkpoint's tensors in a model, and what a recalibration of the model changes in the checkpoint."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from torchmend.facts.dtypes import Kind
from torchmend.facts.errors import UserError
from torchmend.facts.plans import Edit, Refusal, Values
from torchmend.facts.sources import TensorSource
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.live.elements import DTYPE_NAMES, detached
from torchmend.live.recalibrating.results import Recalibration, Reestimate

MOST_NAMED = 5
COUNTER = "num_batches_tracked"
"""Which files of old versions of torch lack."""

_TORCH = {name: dtype for dtype, name in DTYPE_NAMES.items()}
_SIGNED = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}


def load(model: object, source: TensorSource, container: str) -> dict[str, TensorRef]:
    """Load the tensors of one container of a file into a model, without unpickling anything.

    Args:
        model: The user's, on any devices; its own loading hooks are used.
        source: The opened file.
        container: The model's in the file.

    Returns:
        The file's tensors by their names in the model. Names may have a prefix in the file, such as `module.`.

    Raises:
        UserError: It is no model, or keys or shapes of model and file differ.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"--model gives a {type(model).__name__}. It has to give a torch.nn.Module.")
    held = {ref.name: ref for ref in source.refs if ref.container == container and source.is_readable(ref)}
    prefix = _prefix(held, model)
    named = {name.removeprefix(prefix): ref for name, ref in held.items() if name.startswith(prefix)}
    try:
        result = model.load_state_dict({name: _tensor(source, ref) for name, ref in named.items()}, strict=False)
    except RuntimeError as error:  # shapes differ; torch lists them
        raise UserError(f"The file does not fit the model that --model makes: {error}") from None
    missing = [key for key in result.missing_keys if not key.endswith((COUNTER, "_extra_state"))]
    if missing or result.unexpected_keys:
        raise UserError(
            f"The file does not fit the model that --model makes. In {container or 'the file'} "
            f"{_listed('are missing', missing)}{_listed('the model does not have', result.unexpected_keys)}"
            "Make the model as it was trained."
        )
    return named


def _prefix(names: Iterable[str], model: nn.Module) -> str:
    """Return what stands before the model's own names in the file: the shortest that fits most of them."""
    own = [key for key in model.state_dict() if not key.endswith(COUNTER)]
    if not own:
        return ""
    known = set(names)
    found = {name.removesuffix(own[0]) for name in known if name == own[0] or name.endswith(f".{own[0]}")}
    fits = {prefix: sum(prefix + key in known for key in own) for prefix in found}
    return min(fits, key=lambda prefix: (-fits[prefix], len(prefix)), default="")


def _listed(what: str, names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{len(names)} keys {what}: {', '.join(names[:MOST_NAMED])}{more}. "


def _tensor(source: TensorSource, ref: TensorRef) -> Tensor:
    """Return a copy of a file's tensor."""
    dtype = _TORCH.get(ref.dtype)
    if dtype is None or ref.element.kind is Kind.PACKED:
        raise UserError(f"{ref.path} is of type {ref.dtype}, which cannot be loaded into a model.")
    raw = source.raw(ref)
    native = raw.astype(raw.dtype.newbyteorder("="), order="C")
    tensor = torch.from_numpy(native.view(_SIGNED[native.itemsize]))
    if ref.element.kind is Kind.COMPLEX:
        return torch.view_as_complex(tensor.view(torch.empty(0, dtype=dtype).real.dtype))
    return tensor.view(dtype)


def edits(
    model: nn.Module, result: Recalibration, named: dict[str, TensorRef], pinned: frozenset[TensorRef | Scalar]
) -> tuple[list[Edit], list[Refusal]]:
    """Return what a recalibration of a model means for the file that it was loaded from.

    Args:
        model: After it.
        result: What was measured.
        named: As `load` returned it.
        pinned: What cannot be patched in the file.
    """
    buffers = dict(model.named_buffers(remove_duplicate=False))
    made: list[Edit] = []
    refused: list[Refusal] = []
    for each in result.tensors:
        ref = named.get(each.name)
        if ref is None:
            raise UserError(
                f"The file has no {each.name}: the model loads it by another name, which cannot be patched."
            )
        if ref in pinned:
            refused.append(Refusal(about=ref, reason="it stands inside the pickle, where nothing is patched"))
        else:
            made.append(_edit(each, ref, buffers[each.name]))
    for layer in result.uncalled:
        lost = (ref for name, ref in named.items() if name.rpartition(".")[0] == layer and ref.role.is_statistic)
        refused += [Refusal(about=ref, reason="the forward pass does not call its layer") for ref in lost]
    return made, refused


def _edit(each: Reestimate, ref: TensorRef, buffer: Tensor) -> Edit:
    values = detached(buffer).cpu().double()[list(each.elements)]
    numbers = ", ".join(map(str, each.left_out))
    without = f"; left out: batch{'es' if len(each.left_out) > 1 else ''} {numbers}" if each.left_out else ""
    return Edit(
        ref=ref,
        change=Values(index=each.elements, values=tuple(values.tolist())),
        count=len(each.elements),
        rung=each.rung,
        approximate=True,
        reason=f"from {each.batches} batches, {each.values:,} values a channel{without}",
    )
