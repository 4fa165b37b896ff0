"""Normalisation layers: their members, and a guess at what feeds them."""

from collections import defaultdict
from collections.abc import Sequence

from torchmend.facts.tensors import NormLayer, Role, TensorRef

LOOK_BACK = 8
"""How many tensors before a layer are looked at for the weight that feeds it."""


def norm_layers(refs: Sequence[TensorRef]) -> tuple[NormLayer, ...]:
    """Find every normalisation layer, in the source's order.

    Args:
        refs: With roles and groups, as `assign_roles` returns them.
    """
    containers: dict[str, list[TensorRef]] = defaultdict(list)
    for ref in refs:
        containers[ref.container].append(ref)
    return tuple(layer for members in containers.values() for layer in _layers_of(members))


def _layers_of(members: list[TensorRef]) -> list[NormLayer]:
    groups: dict[str, dict[str, TensorRef]] = defaultdict(dict)
    position: dict[str, int] = {}
    for at, ref in enumerate(members):
        if ref.group is not None:
            groups[ref.group][ref.leaf] = ref
            position.setdefault(ref.group, at)
    biases = {ref.prefix: ref for ref in reversed(members) if ref.role is Role.BIAS}
    layers = []
    for prefix, group in groups.items():
        mean, var = group["running_mean"], group["running_var"]
        feeding = _feeding(members, position[prefix], var.numel)
        layers.append(
            NormLayer(
                container=mean.container,
                prefix=prefix,
                mean=mean,
                var=var,
                weight=_affine(group.get("weight"), var),
                bias=_affine(group.get("bias"), var),
                feeding=feeding,
                feeding_bias=biases.get(feeding.prefix) if feeding is not None else None,
                averaged=mean.averaged,
            )
        )
    return layers


def _affine(ref: TensorRef | None, var: TensorRef) -> TensorRef | None:
    return ref if ref is not None and ref.numel == var.numel and ref.element.is_real else None


def _feeding(members: list[TensorRef], position: int, channels: int) -> TensorRef | None:
    """Return the nearest weight before the layer that puts out as many channels."""
    for ref in reversed(members[max(0, position - LOOK_BACK) : position]):
        if ref.role is Role.WEIGHT and len(ref.shape) >= 2 and channels in ref.shape[:2]:
            return ref
    return None
