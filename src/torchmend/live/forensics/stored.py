"""Tensors in files: of capsules, and of the checkpoints that they refer to. Nothing that is read is run."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from torchmend.facts.errors import UserError
from torchmend.live.forensics.trees import damaged
from torchmend.live.ownership import plain


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Write tensors as safetensors; complex ones as pairs of real ones, marked by their names.

    Returns:
        The names of those that it has no place for: sparse, nested, quantised or on no real device.

    Raises:
        ImportError: safetensors is not installed; says how to.
    """
    kept: dict[str, Tensor] = {}
    skipped = []
    for name, each in tensors.items():
        if each.layout is not torch.strided or each.is_quantized or each.is_nested or each.device.type == "meta":
            skipped.append(name)
            continue
        real = torch.view_as_real(each.resolve_conj()) if each.is_complex() else each
        kept[f"complex {name}" if each.is_complex() else name] = (
            real.detach().cpu().clone(memory_format=torch.contiguous_format)
        )
    _safetensors().save_file(kept, path)
    return skipped


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `write_tensors` wrote.

    Raises:
        FileError: It is missing or damaged.
        ImportError: safetensors is not installed; says how to.
    """
    library = _safetensors()
    try:
        found = library.load_file(path)
    except FileNotFoundError:
        raise damaged(f"{path.name} is missing") from None
    except Exception as error:  # the library's own class of error, and what the system raises
        raise damaged(f"{path.name} cannot be read ({error})") from error
    return {
        name.removeprefix("complex "): torch.view_as_complex(each) if name.startswith("complex ") else each
        for name, each in found.items()
    }


def _safetensors() -> Any:
    try:
        from safetensors import torch as library
    except ImportError as error:
        raise ImportError("Capsules need safetensors, which is not installed: pip install safetensors") from error
    return library


def stored_tensors(path: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint that have these names, wherever in it most of them lie.

    Raises:
        UserError: It cannot be read without running code in it, or has none of the names.
    """
    try:
        if path.suffix == ".safetensors":
            tree: Any = read_tensors(path)
        else:
            tree = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, UnpicklingError, ValueError) as error:
        raise UserError(f"{path} cannot be read as weights: {error}") from error
    wanted = set(names)
    found = max(_mappings(tree), key=lambda each: len(wanted & each.keys()), default={})
    kept = {name: each for name, each in found.items() if name in wanted and isinstance(each, Tensor)}
    if not kept:
        raise UserError(f"{path} has none of the model's tensors, such as {min(wanted, default='any')}.")
    return kept


def _mappings(tree: Any) -> Iterable[dict[str, Any]]:
    if isinstance(tree, Mapping):
        yield {plain(str(name)): each for name, each in tree.items()}
        for each in tree.values():
            yield from _mappings(each)
