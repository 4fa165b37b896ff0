"""How torch was set when a batch failed, and on what; set again for a replay."""

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def settings_now() -> dict[str, Any]:
    """Return what changes the bits of results, as plain data."""
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
    }


def versions_now() -> dict[str, str]:
    """Return the versions of everything that took part."""
    from importlib.metadata import version

    return {
        "torchmend": version("torchmend"),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cuda": torch.version.cuda or "",
    }


@contextmanager
def as_set(settings: Mapping[str, Any]) -> Iterator[None]:
    """Set torch like this for a while; what belongs to other devices, and the number of threads, stays as it is."""
    before = settings_now()
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: Mapping[str, Any]) -> None:
    torch.use_deterministic_algorithms(bool(settings.get("deterministic", False)), warn_only=True)
    torch.set_float32_matmul_precision(str(settings.get("matmul_precision", "highest")))
    dtype = getattr(torch, str(settings.get("default_dtype", "float32")), None)
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        torch.set_default_dtype(dtype)
