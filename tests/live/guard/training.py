"""Small trainings that the tests of the guard share."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class Net(nn.Module):
    """A convolution with BatchNorm, and a head; `encode` can be called by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def encode(self, images: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(images))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encode(images))


def batch(seed: int = 0, *, bad: float | None = None) -> tuple[Tensor, Tensor]:
    """Make a batch of eight pictures with labels; with one value replaced if it is to be bad."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.randn(8, 3, 6, 6, generator=generator), torch.randint(0, 4, (8,), generator=generator)
    if bad is not None:
        images[3, 1, 2, 2] = bad
    return images, labels


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def kept(*objects: Any) -> list[Any]:
    """Copy everything that the objects' state dicts hold."""
    return [copy.deepcopy(each.state_dict()) for each in objects]


def same(a: Any, b: Any) -> bool:
    """Return whether two nested states are equal to the last bit, NaN included."""
    if isinstance(a, Tensor):
        return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """Take one ordinary step, and return the loss."""
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), labels)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


class Careless(torch.optim.Optimizer):
    """A user's optimizer: no check for a gradient of None, decay before everything else, and a counter of its own."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            group["taken"] = group.get("taken", 0) + 1
            for parameter in group["params"]:
                parameter.mul_(0.99)
                state = self.state[parameter]
                state.setdefault("mean", torch.zeros_like(parameter)).lerp_(parameter.grad, 0.1)
                parameter.sub_(state["mean"], alpha=group["lr"])


class Careful(Careless):
    """The same with a check, which still counts and decays."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> None:
        for group in self.param_groups:
            group["taken"] = group.get("taken", 0) + 1
            for parameter in group["params"]:
                parameter.mul_(0.99)
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=group["lr"])


@dataclass(frozen=True)
class Kind:
    """An optimizer to test with."""

    name: str
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]


_OPTIM = torch.optim
OPTIMIZERS = [
    Kind("SGD", lambda p: _OPTIM.SGD(p, 0.1)),
    Kind("SGD-momentum", lambda p: _OPTIM.SGD(p, 0.1, momentum=0.9, weight_decay=0.01)),
    Kind("SGD-foreach", lambda p: _OPTIM.SGD(p, 0.1, momentum=0.9, foreach=True)),
    Kind("SGD-fused", lambda p: _OPTIM.SGD(p, 0.1, momentum=0.9, fused=True)),
    Kind("Adam", lambda p: _OPTIM.Adam(p, 0.01, foreach=False)),
    Kind("Adam-amsgrad", lambda p: _OPTIM.Adam(p, 0.01, amsgrad=True)),
    Kind("AdamW-foreach", lambda p: _OPTIM.AdamW(p, 0.01, foreach=True)),
    Kind("AdamW-fused", lambda p: _OPTIM.AdamW(p, 0.01, fused=True)),
    Kind("RMSprop", lambda p: _OPTIM.RMSprop(p, 0.01, momentum=0.9)),
    Kind("Adagrad", lambda p: _OPTIM.Adagrad(p, 0.01)),
    Kind("NAdam", lambda p: _OPTIM.NAdam(p, 0.01)),
    Kind("RAdam", lambda p: _OPTIM.RAdam(p, 0.01)),
    Kind("Adamax", lambda p: _OPTIM.Adamax(p, 0.01)),
    Kind("Adadelta", _OPTIM.Adadelta),
    Kind("ASGD", _OPTIM.ASGD),
    Kind("Rprop", _OPTIM.Rprop),
    Kind("Adafactor", _OPTIM.Adafactor),
    Kind("careless", Careless),
    Kind("careful", Careful),
]
