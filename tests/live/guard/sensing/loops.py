"""What the tests of the sampled sensors share."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from live.guard.training import batch


def hooks_of(model: nn.Module) -> int:
    """Count the forward hooks of all modules."""
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.modules())


class Noisy(nn.Module):
    """A network that draws random numbers while it trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


def run(model: nn.Module, optimizer: torch.optim.Optimizer, around: Callable[[int, str], None], steps: int = 4) -> None:
    """Take steps under float16 autocast; `around` is told the step and what comes: forward, backward, step, end."""
    for step in range(steps):
        images, labels = batch(step)
        optimizer.zero_grad()
        around(step, "forward")
        with torch.autocast("cpu", torch.float16):
            loss = functional.cross_entropy(model(images), labels)
        around(step, "backward")
        loss.backward()
        around(step, "step")
        optimizer.step()
        around(step, "end")
