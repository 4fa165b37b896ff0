"""What the tests of the adapters train: a small network with BatchNorm, on rows of which one may be poisoned."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

NAN, INF = float("nan"), float("inf")
BATCHES = 8


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def rows(*, bad: float | None = None, at: int = 17) -> Tensor:
    """Make 64 rows, eight batches of eight; one value replaced if it is to be bad, in the third batch by default."""
    made = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    if bad is not None:
        made[at, 1] = bad
    return made


def loader(of: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(of), batch_size=8)


def loss_of(model: nn.Module, batch: Tensor) -> Tensor:
    return (model(batch).float() - batch.nan_to_num().clamp(-9, 9).sum(1, keepdim=True)).square().mean()


def is_finite(model: nn.Module) -> bool:
    return all(bool(each.isfinite().all()) for each in model.state_dict().values())


def hooks_of(model: nn.Module) -> int:
    """Count the hooks that are left on a model's modules and parameters."""
    on_modules = sum(len(each._forward_pre_hooks) + len(each._forward_hooks) for each in model.modules())
    return on_modules + sum(len(each._backward_hooks or ()) for each in model.parameters())


class Written:
    """Takes what the guard plots, as a `SummaryWriter` would."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        if name == "torchmend/loss":
            self.losses.append(value)
