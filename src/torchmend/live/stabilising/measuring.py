"""What it costs to compute in float32: time and memory of a step before and after, side by side."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from torchmend.facts.errors import UserError
from torchmend.live.stabilising.changes import Cost, Stabilised
from torchmend.live.stabilising.running import in_half, untouched

PAIRS = 7


def measure_cost(
    model: nn.Module,
    run: Callable[[], Any],
    handle: Stabilised,
    loss: Callable[[Any], Tensor] | None,
    pairs: int = PAIRS,
) -> Cost:
    """Measure a forward and backward pass with and without what was changed, by turns.

    Gradients are worked out and thrown away; buffers, modes and random generators are as before afterwards.

    Args:
        model: Without wrappers.
        run: Runs it.
        handle: What was changed.
        loss: Of the output; the mean square of all that it holds if it is not given.
        pairs: How often.

    Raises:
        UserError: The output has nothing to take a loss of.
    """
    wanted = [each for each in model.parameters() if each.requires_grad]

    def step() -> None:
        with in_half(model):
            output = run()
            value = _mean_square(output) if loss is None else loss(output)
        if wanted and value.requires_grad:
            torch.autograd.grad(value, wanted, allow_unused=True)

    with untouched(model), torch.enable_grad():
        with handle.paused():
            bytes_before = _kept_bytes(model, step)
        bytes_after = _kept_bytes(model, step)
        times = []
        for _ in range(pairs):
            with handle.paused():
                before = _seconds(model, step)
            times.append((before, _seconds(model, step)))
    return Cost(
        pairs=pairs,
        seconds_before=statistics.median(before for before, _ in times),
        seconds_after=statistics.median(after for _, after in times),
        ratio=statistics.median(after / before for before, after in times),
        bytes_before=bytes_before,
        bytes_after=bytes_after,
    )


def _mean_square(output: Any) -> Tensor:
    found = [each for each in tree_leaves(output) if isinstance(each, Tensor) and each.is_floating_point()]
    if not found:
        raise UserError(f"A {type(output).__name__} has no tensors to take a loss of. Pass loss=, a function of it.")
    return torch.stack([each.float().square().mean() for each in found]).sum()


def _seconds(model: nn.Module, step: Callable[[], None]) -> float:
    _wait(model)
    start = time.perf_counter()
    step()
    _wait(model)
    return time.perf_counter() - start


def _wait(model: nn.Module) -> None:
    for device in {each.device for each in model.parameters() if each.device.type != "cpu"}:
        torch.accelerator.synchronize(device)


def _kept_bytes(model: nn.Module, step: Callable[[], None]) -> int:
    """Return how many bytes a step keeps for its backward pass, weights not counted."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage  # kept alive, so that no other one takes its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
