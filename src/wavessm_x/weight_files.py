"""Weights of networks that judge pictures, read from local files; nothing is ever fetched."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from wavessm_x.config import ConfigError

KEY = re.compile(r"(?:^|.*\.)(?:features|slice\d)\.(\d+\.(?:weight|bias))$|^(\d+\.(?:weight|bias))$")
"""A layer's number and kind of weight, as torchvision's classifiers, the LPIPS network or a bare sequence name them."""


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


def fill_layers(layers: nn.Sequential, weights: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Load a classifier's weights into its first layers, which are numbered as torchvision's `features`.

    Args:
        layers: What is filled.
        weights: By keys such as `features.0.weight`, before which anything may stand. Others are left alone.
        path: Where they were read, for errors.
        network: Its name, for errors.

    Raises:
        ConfigError: Keys are missing, a shape is another, or a value is not finite.
    """
    matches = ((KEY.match(key), value) for key, value in weights.items())
    found = {match[1] or match[2]: value for match, value in matches if match}
    wanted = layers.state_dict()
    missing = [f"features.{name}" for name in wanted if name not in found]
    if missing:
        raise ConfigError(
            f"{path} has no weights of {network}: {len(missing)} of {len(wanted)} keys are missing, such as "
            f"{missing[0]}. Give the state dict of torchvision's {network.lower()}."
        )
    for name, value in wanted.items():
        check_weight(f"features.{name}", found[name], value.shape, path)
    layers.load_state_dict({name: found[name] for name in wanted})


def check_weight(name: str, found: Tensor, shape: torch.Size, path: Path) -> None:
    """Raise ConfigError if a weight has not the shape that it must have, or has NaN or Inf in it."""
    if found.shape != shape:
        raise ConfigError(f"{path}: {name} has the shape {tuple(found.shape)}; {tuple(shape)} is expected.")
    if not found.isfinite().all():
        raise ConfigError(f"{path}: {name} has NaN or Inf in it. Get the file again.")
