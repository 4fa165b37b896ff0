"""The random number generators of Python, NumPy and torch, as they were at a moment."""

import ctypes
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TWISTER_BYTES = 625 * 4
"""Of a Mersenne twister: 624 words, and the place in them."""


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
    def now(cls, devices: Sequence[torch.device] = (), *, exact: bool = True) -> "RngState":
        """Return the present states.

        Args:
            devices: Those of which they are wanted.
            exact: Whether NumPy is asked though its twister has not turned, which takes 50 microseconds. What is missed
                else is a second number of a pair from `randn`, where it is all that was drawn since.
        """
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state() if exact else _numpy_state(),
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


_last: tuple[bytes, Any] = b"", None


def _numpy_state() -> Any:
    """Return NumPy's state; the last one again where its twister has not turned."""
    global _last  # noqa: PLW0603  # of the one generator that all share
    generator = np.random.mtrand._rand._bit_generator
    if type(generator) is not np.random.MT19937:
        return np.random.get_state()
    words = ctypes.string_at(generator.ctypes.state_address, _TWISTER_BYTES)
    if words != _last[0]:
        _last = words, np.random.get_state()
    return _last[1]


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
