"""torch's anomaly mode as a protection, and the operation that it names."""

import re

import torch
from torch import Tensor

from benchmarks.faults.places import Told, of_autograd
from benchmarks.faults.protections import Nothing
from benchmarks.faults.training import Training
from torchmend import TrainingStoppedError

NAMED = re.compile(r"Function '(\w+)' returned nan values")


class Anomaly(Nothing):
    """Stops at the first backward pass that makes NaN, and names the function that did."""

    name = "anomaly mode"
    about = "`torch.autograd.set_detect_anomaly(True)`: an error at the first NaN of a backward pass, and the run ends"

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        torch.autograd.set_detect_anomaly(True)

    def backward(self, loss: Tensor) -> bool:
        try:
            return super().backward(loss)
        except RuntimeError as error:
            told = named(error, self.now)
            if told is None:
                raise
            self.told.append(told)
            raise TrainingStoppedError(told.words) from error

    def close(self) -> None:
        torch.autograd.set_detect_anomaly(False)


def named(error: RuntimeError, step: int) -> Told | None:
    """Return the operation that an error of anomaly mode names; None if it is another error.

    It names no side of the model: the line that its warning shows beside it is for the reader to look at.
    """
    found = NAMED.search(str(error))
    if found is None:
        return None
    return Told(step=step, operation=of_autograd(found[1]), backward=True, words=found[0])
