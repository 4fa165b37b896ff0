"""Weights into a model: all of them, or an error that lists what differs."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from wavessm_x.config import WavessmError

WRAPPERS = ("module.", "_orig_mod.")
"""What wrappers for several processes and for compiling put before names."""
GATES = "skip_gates."
"""What the names of the gates begin with; all zeros let everything through."""
LISTED = 10
"""Keys that a message names of each kind, at most."""


class KeysError(WavessmError, ValueError):
    """Weights that do not fit a model.

    Args:
        missing: Keys that the model has and the weights have not.
        unexpected: Keys that the weights have and the model has not.
        misshaped: Keys that both have, with the shapes of the weights and of the model.
    """

    def __init__(
        self, missing: list[str], unexpected: list[str], misshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
    ) -> None:
        self.missing = missing
        self.unexpected = unexpected
        self.misshaped = misshaped
        shapes = [f"{key} is {list(found)}, expected {list(expected)}" for key, (found, expected) in misshaped.items()]
        kinds = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        told = "".join(f"\n{_list(kind, keys)}" for kind, keys in kinds.items() if keys)
        super().__init__(f"The weights do not fit the model; make it with the config that they were saved with.{told}")


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load weights into a model; what wrappers put before names is left out.

    Checkpoints of the published layout have no gates on the skips; then all gates are left fully open.

    Args:
        model: Stays as it is when the weights do not fit.
        state_dict: Tensors by name, as of `state_dict()`.

    Raises:
        KeysError: Keys or shapes differ.
    """
    given = {_bare(key): tensor for key, tensor in state_dict.items()}
    own = model.state_dict()
    gates = [key for key in own if key.startswith(GATES)]
    if not any(key in given for key in gates):
        given |= {key: torch.zeros_like(own[key]) for key in gates}
    missing = [key for key in own if key not in given]
    unexpected = [key for key in given if key not in own]
    misshaped = {
        key: (tuple(given[key].shape), tuple(tensor.shape))
        for key, tensor in own.items()
        if key in given and given[key].shape != tensor.shape
    }
    if missing or unexpected or misshaped:
        raise KeysError(missing, unexpected, misshaped)
    model.load_state_dict(given)


def _bare(key: str) -> str:
    while key.startswith(WRAPPERS):
        for wrapper in WRAPPERS:
            key = key.removeprefix(wrapper)
    return key


def _list(kind: str, keys: list[str]) -> str:
    more = f", and {len(keys) - LISTED} more" if len(keys) > LISTED else ""
    return f"{len(keys)} {kind}: {', '.join(keys[:LISTED])}{more}"
