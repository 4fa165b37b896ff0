"""Weights of networks that judge pictures, read from local files; nothing is ever fetched."""

import pickle
from pathlib import Path

import torch
from torch import Tensor

from wavessm_x.config import ConfigError


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict in a file by `torch.save` or of safetensors, on the CPU.

    Raises:
        ConfigError: The file is not there, or holds something else. Nothing in it is executed.
    """
    state = _safetensors(path) if path.suffix == ".safetensors" else _by_torch(path)
    if not isinstance(state, dict):
        raise ConfigError(f"{path} holds a {type(state).__name__}; a state dict is expected.")
    return {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}


def _by_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {error}") from error


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read as weights: {error}") from error
