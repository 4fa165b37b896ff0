"""The layers of a model that keep running statistics, and which of their elements are damaged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from torchmend.facts.errors import UserError
from torchmend.live.elements import detached
from torchmend.live.recalibrating.moments import Moments, moments_of

MEAN, VARIANCE = "running_mean", "running_var"

DAMAGED, ALL = "damaged", "all"


@dataclass(frozen=True, slots=True)
class Layer:
    """A module with running statistics: torch's own, a class below it, or any that names them as torch does.

    Args:
        name: Its first name in the model.
        module: With 1-D buffers `running_mean` and `running_var` of one length; channels are axis 1 of its input.
    """

    name: str
    module: nn.Module

    @property
    def mean(self) -> Tensor:
        """The running mean itself, as a plain tensor that autograd does not see; shape [C]."""
        return detached(self._buffer(MEAN))

    @property
    def variance(self) -> Tensor:
        """The running variance likewise."""
        return detached(self._buffer(VARIANCE))

    def _buffer(self, key: str) -> Tensor:
        buffer = self.module._buffers[key]
        assert buffer is not None
        return buffer

    @property
    def bad_mean(self) -> Tensor:
        """Which means are damaged; shape [C]."""
        return ~self.mean.isfinite()

    @property
    def bad_variance(self) -> Tensor:
        """Which variances are damaged; shape [C]."""
        return ~self.variance.isfinite() | (self.variance < 0)

    @property
    def is_damaged(self) -> bool:
        """Whether any of its statistics is."""
        return bool((self.bad_mean | self.bad_variance).any())

    @property
    def eps(self) -> float:
        """What it adds to variances."""
        eps = getattr(self.module, "eps", None)
        return eps if isinstance(eps, float) and eps > 0 else 1e-5

    def named(self, key: str) -> str:
        """Return a buffer's name in the model."""
        return f"{self.name}.{key}" if self.name else key

    def measure(self, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Moments:
        """Measure what the layer was called with.

        Raises:
            UserError: Its input has not as many channels on axis 1 as it has statistics.
        """
        given = next((each for each in (*arguments, *keywords.values()) if isinstance(each, Tensor)), None)
        of_instances = isinstance(self.module, _InstanceNorm)
        if given is not None and of_instances and given.dim() == self.module._get_no_batch_dim():  # type: ignore[operator]
            given = given.unsqueeze(0)
        channels = len(self.mean)
        if given is None or given.dim() < 2 or given.shape[1] != channels or not given.is_floating_point():
            got = "no tensor" if given is None else f"a {given.dtype} tensor of shape {list(given.shape)}"
            raise UserError(
                f"{self.name} ({type(self.module).__name__}) keeps statistics of {channels} channels and got {got}; "
                "channels are expected on axis 1. Leave it out by naming the other layers: layers=[...]."
            )
        return moments_of(given, of_instances=of_instances)

    def write(self, mean: Tensor, variance: Tensor) -> None:
        """Overwrite both statistics, rounded to their type, unseen by autograd."""
        for buffer, values in ((self.mean, mean), (self.variance, variance)):
            with torch.inference_mode(buffer.is_inference()):
                buffer.copy_(values)


def tracking_layers(model: nn.Module) -> list[Layer]:
    """Return every layer that keeps running statistics, once, in the model's order."""
    return [Layer(name, module) for name, module in model.named_modules() if _keeps_statistics(module)]


def normalising_layers(model: nn.Module) -> list[Layer]:
    """Return those of torch's own kinds, of which it is known that they can normalise by the batch."""
    return [layer for layer in tracking_layers(model) if isinstance(layer.module, _NormBase)]


def _keeps_statistics(module: nn.Module) -> bool:
    if isinstance(module, torch.jit.ScriptModule):  # its buffers are inside it, and so are its calls
        return False
    mean, variance = module._buffers.get(MEAN), module._buffers.get(VARIANCE)
    if mean is None or variance is None or is_lazy(mean) or mean.is_meta:
        return False
    return mean.dim() == 1 and mean.shape == variance.shape and mean.is_floating_point() and len(mean) > 0


def chosen_layers(layers: Sequence[Layer], wanted: str | Iterable[str], aliases: dict[str, nn.Module]) -> list[Layer]:
    """Return the layers that a caller asks for.

    Args:
        layers: All that there are.
        wanted: `damaged`, `all`, or names of layers, or of modules that hold them.
        aliases: Every name of every module.

    Raises:
        UserError: No layer has such a name.
    """
    if wanted == ALL:
        return list(layers)
    if wanted == DAMAGED:
        return [layer for layer in layers if layer.is_damaged]
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    inside: set[nn.Module] = set()
    for name in names:
        held = {each for each in aliases[name].modules() if _keeps_statistics(each)} if name in aliases else set()
        if not held:
            legal = [layer.name for layer in layers]
            near = get_close_matches(name, legal, n=3, cutoff=0.3) or legal[:3]
            raise UserError(
                f"The model has no layer {name!r} that keeps running statistics; it has {len(legal)}, "
                f"such as {', '.join(near) or 'none'}. Pass such names, 'damaged' or 'all'."
            )
        inside |= held
    return [layer for layer in layers if layer.module in inside]
