"""`torch.aminmax` of every tensor over a memory map: what one would write by hand. Also a program of its own.

python benchmarks/scan/aminmax.py FILE
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from files import loader


def tensors(tree: object) -> Iterator[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        yield tree
    elif isinstance(tree, dict):
        for value in tree.values():
            yield from tensors(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from tensors(value)


def bad_tensors(path: Path) -> int:
    """Count tensors whose extremes are not finite."""
    bad = 0
    for tensor in tensors(loader(path)(path)):
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)
            bad += not bool(torch.isfinite(low) & torch.isfinite(high))
    return bad


if __name__ == "__main__":
    bad = bad_tensors(Path(sys.argv[1]))
    print(f"{bad} tensors are not finite" if bad else "finite")
