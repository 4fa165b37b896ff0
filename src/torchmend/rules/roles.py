"""What each tensor of a checkpoint or a model is for, told from names, shapes and neighbours."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

from torchmend.facts.dtypes import Kind
from torchmend.facts.paths import LONGEST_COMPONENT
from torchmend.facts.tensors import Role, TensorRef
from torchmend.measure.fetch import VECTOR_LIMIT

ParameterKeys = Sequence[tuple[str, str | None]]
"""An optimizer's parameters in the order of its `param_groups`: (key in `state`, name if known)."""

_FIRST_MOMENTS = {"exp_avg", "momentum_buffer", "grad_avg", "exp_avg_diff", "mu", "exp_avg_slow"}
SECOND_MOMENTS = {"exp_avg_sq", "max_exp_avg_sq", "square_avg", "exp_inf", "sum", "acc_delta",
                  "exp_avg_sq_row", "exp_avg_sq_col", "row_var", "col_var", "variance", "nu"}  # fmt: skip
MISFITS = 10
"""One moment in so many may have another shape than its parameter, and the order still counts."""

_UNMISTAKABLE = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"}
_SCALER_KEYS = {"scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker"}
_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow|averaged)([._]|$)|(^|[._])(avg|average)_model([._]|$)")
_AVERAGED_WORDS = ("ema", "swa", "shadow", "averaged", "avg_model", "average_model")
"""One of them is in every text that the pattern fits; looking for words is faster, and names may be long."""
_LIVE_BESIDE = "current_model_state"
"""Where Lightning's averaging callbacks keep the model's own state; `state_dict` then holds the averaged one."""
_MASTER = re.compile(r"(^|[._])(fp32_master|master_params|fp32_from_(fp16|float16)_params)([._]|$)")
_MASTER_WORDS = ("fp32_", "master_params")
_OBSERVERS = {"min_val", "max_val", "min_vals", "max_vals"}
_WRAPPERS = ("module.", "_orig_mod.", "model.", "ema_model.", "model_ema.", "ema.", "swa_model.", "averaged_model.",
             "shadow.", "avg_model.")  # fmt: skip
_MODEL_LEAVES = {"weight", "bias", "running_mean", "running_var"}


def assign_roles(
    refs: Sequence[TensorRef], optimizers: Mapping[str, ParameterKeys] | None = None
) -> tuple[TensorRef, ...]:
    """Return the refs in the same order with role, param, group and averaged filled in.

    Args:
        refs: Names, shapes and dtypes as the source has them.
        optimizers: The containers that are optimizer states.
    """
    optimizers = optimizers or {}
    containers: dict[str, list[TensorRef]] = defaultdict(list)
    for ref in refs:
        containers[ref.container].append(ref)
    norms = {(container, prefix) for container, members in containers.items() for prefix in _norm_prefixes(members)}
    models = _model_containers(containers, optimizers)
    first = [_with_role(ref, ref.container in optimizers, models, norms) for ref in refs]
    if {_LIVE_BESIDE, "state_dict"} <= models:
        first = [replace(ref, averaged=True) if ref.container == "state_dict" else ref for ref in first]
    live = [ref for ref in first if ref.role.is_learned and not ref.is_copy]
    owners = {
        container: _owners(keys, [ref for ref in first if ref.container == container], live)
        for container, keys in optimizers.items()
    }
    twins = _LiveNames(ref for ref in first if ref.container in models and not ref.is_copy)
    numbered = _numbered_masters(first, live)
    return tuple(_with_param(ref, owners, twins, numbered) for ref in first)


def main_container(refs: Sequence[TensorRef]) -> str:
    """Return the container of the model itself: the live one with most weights, biases and statistics."""
    counts = Counter(
        ref.container for ref in refs if (ref.role.is_learned or ref.role.is_statistic) and not ref.is_copy
    )
    fallback = Counter(ref.container for ref in refs)
    best = (counts or fallback).most_common(1)
    return best[0][0] if best else ""


def _norm_prefixes(members: Iterable[TensorRef]) -> set[str]:
    """Find where a running mean and a running variance stand side by side: real, short, of the same shape."""
    shapes: dict[str, dict[str, tuple[int, ...]]] = defaultdict(dict)
    for ref in members:
        if ref.element.kind is Kind.FLOAT and ref.numel <= VECTOR_LIMIT:
            shapes[ref.prefix][ref.leaf] = ref.shape
    return {
        prefix
        for prefix, leaves in shapes.items()
        if {"running_mean", "running_var"} <= leaves.keys() and leaves["running_mean"] == leaves["running_var"]
    }


def _model_containers(containers: Mapping[str, list[TensorRef]], optimizers: Mapping[str, ParameterKeys]) -> set[str]:
    """Tell models from loose tensors (counters, random states, metric histories) beside them."""
    candidates = {name for name in containers if name not in optimizers}
    evident = {name for name in candidates if any(ref.leaf in _MODEL_LEAVES for ref in containers[name])}
    return evident or candidates


def _with_role(ref: TensorRef, in_optimizer: bool, models: set[str], norms: set[tuple[str, str]]) -> TensorRef:
    if in_optimizer or ref.leaf in _UNMISTAKABLE:
        return replace(ref, role=_optimizer_role(ref))
    if _is_master(ref.container):
        return replace(ref, role=Role.BIAS if ref.leaf.endswith("bias") else Role.WEIGHT, master=True)
    if ref.container not in models:
        scaler = ref.leaf in _SCALER_KEYS and "scaler" in ref.container.lower()
        return replace(ref, role=Role.SCALER_STATE if scaler else Role.METADATA)
    role = _model_role(ref, (ref.container, ref.prefix) in norms)
    in_norm = (ref.container, ref.prefix) in norms
    return replace(ref, role=role, group=ref.prefix if in_norm else None, averaged=_is_averaged(ref))


def _optimizer_role(ref: TensorRef) -> Role:
    if ref.leaf in _FIRST_MOMENTS:
        return Role.FIRST_MOMENT
    if ref.leaf in SECOND_MOMENTS:
        return Role.SECOND_MOMENT
    return Role.OPTIMIZER_STEP if ref.leaf == "step" else Role.OPTIMIZER_STATE


def _model_role(ref: TensorRef, in_norm: bool) -> Role:
    if in_norm and ref.leaf == "running_mean":
        return Role.RUNNING_MEAN
    if in_norm and ref.leaf == "running_var":
        return Role.RUNNING_VAR
    if in_norm and ref.leaf == "num_batches_tracked":
        return Role.BATCH_COUNT
    if ref.element.kind not in (Kind.FLOAT, Kind.COMPLEX):
        return Role.BUFFER
    if ref.leaf in _OBSERVERS or "mask" in ref.leaf.lower():
        return Role.INFINITE_BUFFER
    return Role.BIAS if ref.leaf.endswith("bias") else Role.WEIGHT


def _is_averaged(ref: TensorRef) -> bool:
    return _says_averaged(ref.container) or _says_averaged(ref.name.split(".", 1)[0])


@lru_cache(maxsize=256)
def _says_averaged(text: str) -> bool:
    lowered = text[:LONGEST_COMPONENT].lower()
    return any(word in lowered for word in _AVERAGED_WORDS) and bool(_AVERAGED.search(lowered))


@lru_cache(maxsize=256)
def _is_master(container: str) -> bool:
    return any(word in container for word in _MASTER_WORDS) and bool(_MASTER.search(container))


# Which parameter a moment belongs to


def _owners(keys: ParameterKeys, members: Sequence[TensorRef], live: Sequence[TensorRef]) -> dict[str, str]:
    """Map keys of the optimizer's `state` to paths of parameters; empty where the file does not tell.

    The order of `param_groups` is that of `model.parameters()`, or of its matrices followed by its vectors
    where weight decay was split off. An order counts if every moment has its parameter's shape, or failing that
    nine in ten of them.
    """
    by_path = {ref.name: ref for ref in live} | {ref.path: ref for ref in live}
    named = {key: by_path[name].path for key, name in keys if name is not None and name in by_path}
    if named or not keys:
        return named
    shapes = {
        _state_key(ref): ref.shape for ref in members if ref.leaf in _FIRST_MOMENTS | SECOND_MOMENTS and ref.shape
    }
    orders = _orders(live, len(keys))
    for allowed in (0, len(keys) // MISFITS):
        for order in orders:
            misfits = sum(shapes.get(key, ref.shape) != ref.shape for (key, _), ref in zip(keys, order, strict=True))
            if misfits <= allowed:
                return {key: ref.path for (key, _), ref in zip(keys, order, strict=True)}
    return {key: by_path[key].path for key, _ in keys if key in by_path}


def _orders(live: Sequence[TensorRef], length: int) -> list[list[TensorRef]]:
    """List the orders in which so many parameters may stand in an optimizer."""
    by_container: dict[str, list[TensorRef]] = defaultdict(list)
    for ref in live:
        by_container[ref.container].append(ref)
    return [
        order
        for parameters in (list(live), *by_container.values())
        for order in (parameters, sorted(parameters, key=lambda ref: len(ref.shape) < 2))
        if len(order) == length
    ]


def _numbered_masters(refs: Sequence[TensorRef], live: Sequence[TensorRef]) -> dict[TensorRef, str]:
    """Map wider copies that have numbers for names to the paths of their parameters, if an order fits all shapes."""
    masters: dict[str, list[TensorRef]] = defaultdict(list)
    for ref in refs:
        if ref.master and ref.leaf.isdigit():
            masters[_MASTER.split(ref.container)[0]].append(ref)
    found: dict[TensorRef, str] = {}
    for group in masters.values():
        shapes = [ref.shape for ref in group]
        order = next((each for each in _orders(live, len(group)) if [ref.shape for ref in each] == shapes), None)
        if order is not None:
            found |= {master: ref.path for master, ref in zip(group, order, strict=True)}
    return found


def _state_key(ref: TensorRef) -> str:
    return ref.prefix.removeprefix("state.")


class _LiveNames:
    """Find the live tensor that an averaged copy follows, whatever wrappers its name has."""

    def __init__(self, refs: Iterable[TensorRef]) -> None:
        self._by_name: dict[tuple[str, tuple[int, ...]], TensorRef] = {}
        for ref in refs:
            self._by_name.setdefault((plain_name(ref.name), ref.shape), ref)

    def twin(self, ref: TensorRef) -> TensorRef | None:
        return self._by_name.get((plain_name(ref.name), ref.shape))


def plain_name(name: str) -> str:
    """Return a name without the wrappers that DDP, compile, EMA classes and trainers put in front."""
    start = 0
    while (wrapper := next((w for w in _WRAPPERS if name.startswith(w, start)), None)) is not None:
        start += len(wrapper)
    return name[start:]


def _with_param(
    ref: TensorRef, owners: Mapping[str, Mapping[str, str]], twins: _LiveNames, numbered: Mapping[TensorRef, str]
) -> TensorRef:
    if ref in numbered:
        return replace(ref, param=numbered[ref])
    if ref.container in owners and not ref.is_piece:
        return replace(ref, param=owners[ref.container].get(_state_key(ref)))
    if ref.is_copy and (twin := twins.twin(ref)) is not None:
        return replace(ref, param=twin.path)
    return ref
