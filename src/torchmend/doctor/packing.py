"""Which tensors of a checkpoint can be written elsewhere, under which names, and why the others cannot."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torchmend.doctor.writing.outputs import Layout, unwritable
from torchmend.doctor.writing.parcels import Parcel
from torchmend.facts.dtypes import Kind
from torchmend.facts.errors import FileError, UserError
from torchmend.facts.paths import LONGEST_COMPONENT, joined
from torchmend.facts.tensors import Scalar
from torchmend.formats.contents import Allowance, Contents, StoredTensor

_MOST_NAMED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A tensor that is not written.

    Args:
        path: Container and name joined by a dot.
        nbytes: How many bytes it has, or claims to have.
        reason: Why.
    """

    path: str
    nbytes: int
    reason: str


def pack(
    contents: Contents, layout: Layout, *, container: str | None = None, lost: Mapping[int, str] | None = None
) -> tuple[list[Parcel], list[LeftOut]]:
    """Divide tensors into those that a layout can hold and those that cannot be written.

    Args:
        contents: Where they are.
        layout: How they are to be written.
        container: Only what is in this container and below it, which becomes the root.
        lost: Reasons against some of them, by their place in `contents.tensors`.

    Raises:
        UserError: There is no container of that name.
    """
    parcels: list[Parcel] = []
    left_out: list[LeftOut] = []
    allowance = Allowance(contents.nbytes)
    containers: set[str] = set()
    for place, tensor in enumerate(contents.tensors):
        inside = _inside(tensor.container, container)
        if inside is None:
            continue
        containers.add(inside)
        parcel = Parcel(container=inside, name=tensor.name, tensor=tensor, files=contents.files)
        reason = (lost or {}).get(place) or _unreadable(tensor) or unwritable(parcel, layout)
        reason = reason or _unfit_name(parcel.path) or allowance.refusal(parcel.nbytes)
        if reason:
            path = joined((tensor.container, tensor.name)) if tensor.container else tensor.name
            left_out.append(LeftOut(path=path, nbytes=parcel.nbytes, reason=reason))
        else:
            parcels.append(parcel)
    if container is not None and not parcels and not left_out:
        raise _no_container(contents, container)
    if layout is not Layout.TORCH and len(containers) == 1:  # where there is but one, names need not tell it
        parcels = [replace(parcel, container="") for parcel in parcels]
    return parcels, left_out


def _unfit_name(path: str) -> str:
    """Say why a name would not come back as it went in."""
    if not path:
        return "its name is empty"
    return f"its name has {len(path):,} characters" if len(path) > LONGEST_COMPONENT else ""


def _inside(container: str, chosen: str | None) -> str | None:
    """Return a container's name below the chosen one; None if it is not there."""
    if chosen is None:
        return container
    below = container.removeprefix(chosen)
    return below.removeprefix(".") if container == chosen or container.startswith(chosen + ".") else None


def _no_container(contents: Contents, container: str) -> UserError:
    known = list(dict.fromkeys(tensor.container for tensor in contents.tensors if tensor.container))
    listed = ", ".join(known[:_MOST_NAMED]) + ("" if len(known) <= _MOST_NAMED else ", ...")
    has = f"It has {listed}." if known else "All its tensors stand at the root."
    return UserError(f"There are no tensors in a container {container!r}. {has}")


def _unreadable(tensor: StoredTensor) -> str:
    if tensor.absent:
        return tensor.absent
    if tensor.dtype.kind is Kind.PACKED:
        return f"{tensor.dtype.name} elements mean nothing without their scale, or share bytes"
    if tensor.part_of:
        return f"it is a part of a {tensor.part_of} tensor, which has no place in a file of plain ones"
    return tensor.misfit()


def left_behind(contents: Contents) -> tuple[Scalar, ...]:
    """Return the numbers and texts beside the tensors, but for the mark that every safetensors file of torch has."""
    return tuple(scalar for scalar in contents.scalars if (scalar.path, scalar.value) != (("format",), "pt"))


def about(path: Path, error: FileError, remedy: str = "") -> FileError:
    """Return an error about a file that names the file."""
    return FileError(error.code, f"{path}: {error.message}", remedy or error.remedy)
