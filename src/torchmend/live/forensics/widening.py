"""Casts to narrower types, as code writes them by hand, made casts to a wide one."""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CASTS = {"half": torch.float16, "bfloat16": torch.bfloat16, "float": torch.float32}


class Widened(TorchFunctionMode):
    """While it is entered, what is cast to a narrower floating-point type becomes wide instead.

    Args:
        kind: The wide type.
    """

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self._kind = kind

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _CASTS and args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            return args[0].to(self._wide(_CASTS[name]))
        if name in ("to", "type"):
            args = tuple(map(self._wide, args))
            kwargs = {key: self._wide(each) for key, each in kwargs.items()}
        return func(*args, **kwargs)

    def _wide(self, value: Any) -> Any:
        narrow = isinstance(value, torch.dtype) and value.is_floating_point and value.itemsize < self._kind.itemsize
        return self._kind if narrow else value
