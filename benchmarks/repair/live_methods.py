"""Ways to repair a live model, each on the model itself, with the damaged state loaded."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from damage import MEAN, VAR, State
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import torchmend
from networks import Network
from torchmend.live.recalibrating.batches import Noise

BATCHES = 8


@dataclass(frozen=True)
class Case:
    """What a method is given.

    Args:
        network: With the damaged state loaded into its model.
        damaged: That state.
        batches: Of the network's inputs, one of them poisoned or none.
    """

    network: Network
    damaged: State
    batches: list[Tensor]

    @property
    def model(self) -> nn.Module:
        """The damaged model."""
        return self.network.model


def leave(_: Case) -> None:
    """Do nothing."""


def reset(case: Case) -> None:
    """Set each damaged statistic to 0 or 1, whole: the classic recipe."""
    for statistic, usual in _statistics(case.model):
        if not bool(statistic.isfinite().all()):
            statistic.fill_(usual)


def without_nan(case: Case) -> None:
    """Call `torch.nan_to_num` on every statistic."""
    for statistic, _ in _statistics(case.model):
        statistic.copy_(torch.nan_to_num(statistic))


def updated(case: Case) -> None:
    """Call `torch.optim.swa_utils.update_bn`."""
    update_bn(case.batches, case.model)


def guarded(case: Case) -> None:
    """Take a step of training under a guard, whose rate is 0; then lose the statistics, and evaluate."""
    model, damaged = case.model, case.damaged
    model.load_state_dict(case.network.state)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with torchmend.Guard(model, optimizer, ring=None, reservoir=0):
        model.train()
        model(case.batches[0]).square().mean().backward()
        optimizer.step()
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(damaged[name])
        model.eval()
        with torch.no_grad():
            model(case.batches[0])


def predicted(case: Case) -> None:
    """Call `torchmend.repair`."""
    torchmend.repair(case.model)


def on_data(case: Case) -> None:
    """Call `torchmend.recalibrate` on the batches."""
    torchmend.recalibrate(case.model, case.batches)


def on_noise(falloff: float) -> Callable[[Case], None]:
    """Return the method that calls it on noise of the inputs' shape, mean and deviation, and of some falloff."""

    def method(case: Case) -> None:
        torchmend.recalibrate(case.model, noise_like(case.network, falloff))

    return method


def noise_like(network: Network, falloff: float = 0.0) -> Noise:
    """Return noise of the shape, mean and deviation of a network's batches."""
    inputs, shape = network.inputs, batches_of(network)[0].shape
    mean, std = float(inputs.mean()), float(inputs.std())
    return torchmend.noise(shape, batches=BATCHES, mean=mean, std=std, falloff=falloff)


def batches_of(network: Network) -> list[Tensor]:
    """Return a network's inputs in batches."""
    return list(network.inputs.chunk(BATCHES))


def _statistics(model: nn.Module) -> Iterator[tuple[Tensor, float]]:
    """Give every running statistic, and to what it is reset."""
    for name, buffer in model.named_buffers():
        if name.endswith((MEAN, VAR)):
            yield buffer, 1.0 if name.endswith(VAR) else 0.0


HEALTHY, DATA, UPDATE = "healthy", "data", "update_bn"
METHODS: dict[str, Callable[[Case], None]] = {
    "damaged": leave,
    "reset": reset,
    "nan_to_num": without_nan,
    UPDATE: updated,
    "last copy": guarded,
    "prediction": predicted,
    "noise": on_noise(0.0),
    "1/f noise": on_noise(1.0),
    DATA: on_data,
}
"""By name; from `last copy` on they are torchmend's."""

OURS = ("last copy", "prediction", "noise", "1/f noise", DATA)
