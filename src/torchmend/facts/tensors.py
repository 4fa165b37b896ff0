"""What a checkpoint or a model is made of: named tensors with roles, scalars, normalisation layers."""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod

from torchmend.facts.dtypes import DTYPES, DType

_PIECE = re.compile(r"\[[0-9:, ]*\]$")
"""The place that a piece of a tensor has in the whole, behind its name."""


class Role(StrEnum):
    """What a tensor is for, as far as names, shapes and neighbours tell."""

    RUNNING_MEAN = "BatchNorm running_mean"
    RUNNING_VAR = "BatchNorm running_var"
    BATCH_COUNT = "BatchNorm num_batches_tracked"
    WEIGHT = "weight"
    BIAS = "bias"
    FIRST_MOMENT = "first moment"
    SECOND_MOMENT = "second moment"
    OPTIMIZER_STEP = "optimizer step"
    OPTIMIZER_STATE = "optimizer state"
    SCALER_STATE = "GradScaler state"
    BUFFER = "buffer"
    INFINITE_BUFFER = "buffer in which infinities are legal"
    """Attention masks (-inf) and range observers (+inf and -inf until the first batch)."""
    METADATA = "metadata"

    @property
    def is_statistic(self) -> bool:
        """Whether it is a mean or variance that evaluation mode reads."""
        return self in (Role.RUNNING_MEAN, Role.RUNNING_VAR)

    @property
    def is_learned(self) -> bool:
        """Whether it is a weight or a bias."""
        return self in (Role.WEIGHT, Role.BIAS)

    @property
    def is_optimizer(self) -> bool:
        """Whether an optimizer owns it."""
        return self in (
            Role.FIRST_MOMENT,
            Role.SECOND_MOMENT,
            Role.OPTIMIZER_STEP,
            Role.OPTIMIZER_STATE,
        )

    @property
    def is_nonnegative(self) -> bool:
        """Whether a value below zero is damage."""
        return self in (Role.RUNNING_VAR, Role.SECOND_MOMENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRef:
    """One name under which a source holds a tensor.

    Args:
        source: The file's path, or a word for a live object.
        container: Where the state dict stands in the source (`model_state_dict`); empty for the root.
        name: The name as the model's author writes it (`layer1.0.bn1.running_mean`). A piece of a tensor that is
            spread over files has its place in the whole behind it (`layer.weight[0:512, 0:1024]`).
        shape: Sizes, outermost first; `()` for a scalar.
        dtype: torch's name without the `torch.` prefix.
        role: What the tensor is for.
        param: For a moment or a copy, the path of the parameter or tensor that it belongs to.
        group: For members of a normalisation layer, the layer's prefix (`layer1.0.bn1`).
        averaged: Whether it belongs to an EMA or SWA copy of the model.
        master: Whether it is a wider copy of a weight, from which an optimizer makes the weight anew at every step.
        storage: Alias identity: equal for names of the very same elements.
    """

    source: str
    container: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role = Role.METADATA
    param: str | None = None
    group: str | None = None
    averaged: bool = False
    master: bool = False
    storage: Hashable = None

    def __hash__(self) -> int:
        """Hash the two fields that tell tensors of one source apart: refs are looked up millions of times."""
        return hash((self.container, self.name))

    @property
    def is_copy(self) -> bool:
        """Whether it follows or leads another tensor of the same source."""
        return self.averaged or self.master

    @property
    def is_piece(self) -> bool:
        """Whether it is a piece of a tensor that is spread over files."""
        return self.name.endswith("]") and bool(_PIECE.search(self.name))

    @property
    def numel(self) -> int:
        """The number of elements."""
        return prod(self.shape)

    @property
    def element(self) -> DType:
        """The element type."""
        return DTYPES[self.dtype]

    @property
    def path(self) -> str:
        """Container and name joined by a dot."""
        return f"{self.container}.{self.name}" if self.container else self.name

    @property
    def prefix(self) -> str:
        """The name without its last component; empty when it has only one."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """The last component of the name, without the place that a piece of a larger tensor has in it."""
        name = _PIECE.sub("", self.name) if self.name.endswith("]") else self.name
        return name.rpartition(".")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scalar:
    """A number or a short text among a checkpoint's metadata (`iteration`, `best_psnr`, a learning rate).

    Args:
        path: Keys and indices from the root.
        value: What stands there.
        place: Where in the file its eight bytes stand (a big-endian float64), if they can be patched.
        file: Which of the source's files that is.
        packed: The compressed record that it stands in, at `place`; a repair stores that record anew.
    """

    path: tuple[str | int, ...]
    value: bool | int | float | str
    place: int | None = field(default=None, compare=False)
    file: int = field(default=0, compare=False)
    packed: str = field(default="", compare=False)

    @property
    def dotted(self) -> str:
        """The path joined by dots."""
        return ".".join(map(str, self.path))

    @property
    def leaf(self) -> str:
        """The last key of the path that is a text; empty without one."""
        return next((key for key in reversed(self.path) if isinstance(key, str)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormLayer:
    """A layer that keeps running statistics: a prefix with both a running mean and a running variance.

    Args:
        container: The state dict that it stands in.
        prefix: The layer's name (`layer1.0.bn1`).
        mean: Running mean, one value a channel.
        var: Running variance, one value a channel.
        weight: Affine weight, if the layer has one.
        bias: Affine bias, if the layer has one.
        feeding: The weight that probably feeds the layer, guessed from names and order; must be doubted.
        feeding_bias: The bias that goes with it.
        averaged: Whether it belongs to an EMA or SWA copy.
    """

    container: str
    prefix: str
    mean: TensorRef
    var: TensorRef
    weight: TensorRef | None = None
    bias: TensorRef | None = None
    feeding: TensorRef | None = None
    feeding_bias: TensorRef | None = None
    averaged: bool = False

    @property
    def channels(self) -> int:
        """The number of channels."""
        return self.mean.numel
