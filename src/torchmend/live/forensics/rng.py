"""The random number generators of Python, NumPy and torch, as they were at a moment."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RngState:
    """The states of all generators.

    Args:
        python: What `random.getstate` returns.
        numpy: What `numpy.random.get_state` returns, of the generator that `numpy.random.seed` seeds.
        cpu: What `torch.get_rng_state` returns; uint8, shape (n,).
        devices: Of devices other than the CPU, by name ("cuda:0"); uint8 each.
    """

    python: Any
    numpy: Any
    cpu: Tensor
    devices: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def now(cls, devices: Sequence[torch.device] = ()) -> "RngState":
        """Return the present states; of devices, those that are named."""
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # the one that users' code shares
            cpu=torch.get_rng_state(),
            devices={str(each): _module_of(each).get_rng_state(each) for each in devices if _has_generator(each)},
        )

    def restore(self) -> None:
        """Put all generators back to these states; those of devices that are not here stay as they are."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for name, state in self.devices.items():
            device = torch.device(name)
            if _has_generator(device):
                _module_of(device).set_rng_state(state, device)


@contextmanager
def rng_kept(devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Put all generators back at the end to where they are now."""
    state = RngState.now(devices)
    try:
        yield
    finally:
        state.restore()


def _module_of(device: torch.device) -> Any:
    return torch.get_device_module(device)


def _has_generator(device: torch.device) -> bool:
    return device.type not in ("cpu", "meta", "mps") and bool(_module_of(device).is_available())
