import sys
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from torchmend.facts.tensors import Role, TensorRef
from torchmend.rules.roles import _is_master, _says_averaged, assign_roles, main_container, plain_name


def ref(name: str, *shape: int, container: str = "", dtype: str = "float32") -> TensorRef:
    return TensorRef(source="a.pt", container=container, name=name, shape=shape, dtype=dtype)


def refs_of(state: Mapping[str, torch.Tensor], container: str = "") -> list[TensorRef]:
    return [
        ref(name, *tensor.shape, container=container, dtype=str(tensor.dtype).removeprefix("torch."))
        for name, tensor in state.items()
    ]


def flat(value: Any, path: str = "") -> Iterable[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{path}.{key}" if path else str(key))


def optimizer_refs(optimizer: torch.optim.Optimizer, container: str = "optimizer") -> list[TensorRef]:
    return refs_of(dict(flat(optimizer.state_dict())), container)


def keys_of(optimizer: torch.optim.Optimizer) -> list[tuple[str, str | None]]:
    return [
        (str(key), name)
        for group in optimizer.state_dict()["param_groups"]
        for key, name in zip(group["params"], group.get("param_names", [None] * len(group["params"])), strict=True)
    ]


def step(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer


def net() -> nn.Sequential:
    """A net of which no two parameters have the same shape."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(5, 6), nn.LayerNorm(7))


def roles(refs: Iterable[TensorRef]) -> dict[str, Role]:
    return {ref.path: ref.role for ref in refs}


def role(name: str, *shape: int, container: str = "", dtype: str = "float32") -> Role:
    """Return the role of a tensor beside a plain layer."""
    beside = [ref("fc.weight", 2, 3, container=container), ref("fc.bias", 2, container=container)]
    return assign_roles([*beside, ref(name, *shape, container=container, dtype=dtype)])[-1].role


# Models

BATCH_NORM = {
    "weight": Role.WEIGHT,
    "bias": Role.BIAS,
    "running_mean": Role.RUNNING_MEAN,
    "running_var": Role.RUNNING_VAR,
    "num_batches_tracked": Role.BATCH_COUNT,
}


@pytest.mark.parametrize("prefix", ["", "bn.", "layer1.0.bn1.", "module.layer1.0.bn1.", "_orig_mod.module.bn."])
def test_every_member_of_a_batch_norm_has_its_role(prefix: str) -> None:
    refs = assign_roles(refs_of({prefix + name: t for name, t in nn.BatchNorm2d(4).state_dict().items()}))
    assert roles(refs) == {prefix + name: role for name, role in BATCH_NORM.items()}


@pytest.mark.parametrize(
    "layer",
    [
        nn.BatchNorm1d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    ],
    ids=lambda layer: type(layer).__name__,
)  # fmt: skip
def test_every_kind_of_layer_with_running_statistics_is_recognised(layer: nn.Module) -> None:
    assert roles(assign_roles(refs_of(layer.state_dict()))) == BATCH_NORM


def test_a_batch_norm_without_affine_parameters_is_recognised() -> None:
    refs = assign_roles(refs_of(nn.BatchNorm2d(4, affine=False).state_dict()))
    assert {r.role for r in refs} == {Role.RUNNING_MEAN, Role.RUNNING_VAR, Role.BATCH_COUNT}


@pytest.mark.parametrize(("name", "group"), [("bn.weight", "bn"), ("bn.running_var", "bn"), ("conv.weight", None)])
def test_members_of_a_norm_layer_know_their_group(name: str, group: str | None) -> None:
    state = {"conv." + n: t for n, t in nn.Conv2d(3, 4, 3).state_dict().items()}
    state |= {"bn." + n: t for n, t in nn.BatchNorm2d(4).state_dict().items()}
    refs = {r.name: r for r in assign_roles(refs_of(state))}
    assert refs[name].group == group


def test_a_running_mean_without_a_variance_is_no_statistic() -> None:
    assert role("center.running_mean", 4) is Role.WEIGHT


def test_layers_of_the_same_name_in_two_containers_are_told_apart() -> None:
    state = nn.BatchNorm2d(4).state_dict()
    refs = assign_roles([*refs_of(state, "a"), ref("running_mean", 4, container="b"), ref("weight", 4, container="b")])
    assert roles(refs)["b.running_mean"] is Role.WEIGHT


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("conv.weight", "float32", Role.WEIGHT),
        ("conv.weight", "bfloat16", Role.WEIGHT),
        ("conv.weight", "float8_e4m3fn", Role.WEIGHT),
        ("conv.weight", "complex64", Role.WEIGHT),
        ("conv.bias", "float32", Role.BIAS),
        ("attention.in_proj_bias", "float16", Role.BIAS),
        ("pos_embed", "float32", Role.WEIGHT),
        ("scale", "float32", Role.WEIGHT),
        ("position_ids", "int64", Role.BUFFER),
        ("weight_packed", "uint8", Role.BUFFER),
        ("flag", "bool", Role.BUFFER),
        ("attn_mask", "float32", Role.INFINITE_BUFFER),
        ("blocks.0.causalMask", "float32", Role.INFINITE_BUFFER),
        ("observer.min_val", "float32", Role.INFINITE_BUFFER),
        ("observer.max_val", "float32", Role.INFINITE_BUFFER),
        ("fake_quant.max_vals", "float32", Role.INFINITE_BUFFER),
        ("attn_mask", "bool", Role.BUFFER),
    ],
)
def test_a_tensor_of_a_model_has_the_role_that_its_name_and_type_tell(name: str, dtype: str, expected: Role) -> None:
    assert role(name, 4, dtype=dtype) is expected


def test_every_tensor_of_a_quantisation_observer_may_be_infinite() -> None:
    state = torch.ao.quantization.MinMaxObserver().state_dict()
    infinite = [name for name, tensor in state.items() if tensor.isinf().any()]
    assert [role(f"observer.{name}", 1) for name in infinite] == [Role.INFINITE_BUFFER] * len(infinite)


def test_the_order_of_the_tensors_is_kept() -> None:
    refs = [*refs_of(net().state_dict(), "model"), ref("history", 9, container="log")]
    assert [r.path for r in assign_roles(refs)] == [r.path for r in refs]


def test_names_shapes_and_types_are_kept() -> None:
    refs = refs_of(net().state_dict(), "model")
    assert [(r.name, r.shape, r.dtype) for r in assign_roles(refs)] == [(r.name, r.shape, r.dtype) for r in refs]


def test_nothing_has_no_roles() -> None:
    assert assign_roles([]) == ()


# Metadata


@pytest.mark.parametrize("name", ["rng_state", "history", "loss", "scale", "ema_decay", "best"])
def test_a_loose_tensor_beside_a_model_is_metadata(name: str) -> None:
    refs = assign_roles([*refs_of(net().state_dict(), "model"), ref(name, 9)])
    assert refs[-1].role is Role.METADATA


def test_a_container_of_loose_tensors_beside_a_model_is_metadata() -> None:
    refs = assign_roles([*refs_of(net().state_dict(), "model"), ref("train", 9, container="losses")])
    assert refs[-1].role is Role.METADATA


def test_without_any_model_loose_tensors_are_weights() -> None:
    assert assign_roles([ref("style", 512), ref("content", 512)])[0].role is Role.WEIGHT


@pytest.mark.parametrize("name", ["scale", "_growth_tracker"])
@pytest.mark.parametrize("container", ["scaler", "grad_scaler", "amp_scaler_state_dict", "GradScaler"])
def test_a_tensor_of_a_grad_scaler_is_its_state(name: str, container: str) -> None:
    refs = assign_roles([*refs_of(net().state_dict(), "model"), ref(name, container=container)])
    assert refs[-1].role is Role.SCALER_STATE


def test_a_scale_in_a_model_is_no_state_of_a_scaler() -> None:
    assert role("scale", 1, container="scaler_net") is Role.WEIGHT


# Optimizers

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any], dict[str, Role]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, {"momentum_buffer": Role.FIRST_MOMENT}),
    "Adam": (
        torch.optim.Adam,
        {"amsgrad": True},
        {
            "step": Role.OPTIMIZER_STEP,
            "exp_avg": Role.FIRST_MOMENT,
            "exp_avg_sq": Role.SECOND_MOMENT,
            "max_exp_avg_sq": Role.SECOND_MOMENT,
        },
    ),
    "RMSprop": (
        torch.optim.RMSprop,
        {"momentum": 0.9, "centered": True},
        {
            "step": Role.OPTIMIZER_STEP,
            "square_avg": Role.SECOND_MOMENT,
            "momentum_buffer": Role.FIRST_MOMENT,
            "grad_avg": Role.FIRST_MOMENT,
        },
    ),
    "Adagrad": (torch.optim.Adagrad, {}, {"step": Role.OPTIMIZER_STEP, "sum": Role.SECOND_MOMENT}),
    "Adadelta": (
        torch.optim.Adadelta,
        {},
        {"step": Role.OPTIMIZER_STEP, "square_avg": Role.SECOND_MOMENT, "acc_delta": Role.SECOND_MOMENT},
    ),
    "Adamax": (
        torch.optim.Adamax,
        {},
        {"step": Role.OPTIMIZER_STEP, "exp_avg": Role.FIRST_MOMENT, "exp_inf": Role.SECOND_MOMENT},
    ),
    "NAdam": (
        torch.optim.NAdam,
        {},
        {
            "step": Role.OPTIMIZER_STEP,
            "mu_product": Role.OPTIMIZER_STATE,
            "exp_avg": Role.FIRST_MOMENT,
            "exp_avg_sq": Role.SECOND_MOMENT,
        },
    ),
    "Adafactor": (
        torch.optim.Adafactor,
        {},
        {"step": Role.OPTIMIZER_STEP, "row_var": Role.SECOND_MOMENT, "col_var": Role.SECOND_MOMENT},
    ),
    "Rprop": (
        torch.optim.Rprop,
        {},
        {"step": Role.OPTIMIZER_STEP, "prev": Role.OPTIMIZER_STATE, "step_size": Role.OPTIMIZER_STATE},
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_every_optimizer_has_its_roles(name: str) -> None:
    make, options, expected = OPTIMIZERS[name]
    optimizer = step(make([nn.Parameter(torch.ones(3, 2))], **options))
    refs = assign_roles(optimizer_refs(optimizer), {"optimizer": keys_of(optimizer)})
    assert {r.leaf: r.role for r in refs} == expected


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg_sq", "momentum_buffer"])
def test_a_moment_is_recognised_where_nothing_tells_an_optimizer(name: str) -> None:
    assert role(f"opt.0.{name}", 4).is_optimizer


def checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer, container: str = "model") -> tuple[TensorRef, ...]:
    refs = [*refs_of(model.state_dict(), container), *optimizer_refs(step(optimizer))]
    return assign_roles(refs, {"optimizer": keys_of(optimizer)})


def owners(refs: Iterable[TensorRef], leaf: str = "exp_avg") -> list[str | None]:
    return [r.param for r in refs if r.container == "optimizer" and r.leaf == leaf]


def test_moments_belong_to_parameters_in_the_order_of_the_model() -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW(model.parameters()))
    assert owners(refs) == [f"model.{name}" for name, _ in model.named_parameters()]


@pytest.mark.parametrize("leaf", ["exp_avg", "exp_avg_sq", "step"])
def test_every_state_of_a_parameter_belongs_to_it(leaf: str) -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW(model.parameters()))
    assert owners(refs, leaf) == [f"model.{name}" for name, _ in model.named_parameters()]


def test_moments_belong_to_parameters_that_are_split_by_weight_decay() -> None:
    model = net()
    matrices = {name: p for name, p in model.named_parameters() if p.ndim > 1}
    vectors = {name: p for name, p in model.named_parameters() if p.ndim <= 1}
    groups = [{"params": [*matrices.values()]}, {"params": [*vectors.values()], "weight_decay": 0.0}]
    refs = checkpoint(model, torch.optim.AdamW(groups))
    assert owners(refs) == [f"model.{name}" for name in (*matrices, *vectors)]


def test_names_in_the_optimizer_decide_whatever_the_order() -> None:
    model = net()
    named = [*model.named_parameters()][::-1]
    refs = checkpoint(model, torch.optim.AdamW(named))
    assert owners(refs) == [f"model.{name}" for name, _ in named]


def test_moments_of_a_part_of_the_model_belong_to_nothing_that_is_known() -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW(model[3].parameters()))
    assert owners(refs) == [None] * len([*model[3].parameters()])


def test_moments_of_other_shapes_than_the_parameters_belong_to_nothing_that_is_known() -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW([*model.parameters()][::-1]))
    assert owners(refs) == [None] * len([*model.parameters()])


def test_parameters_without_a_state_keep_their_place_in_the_order() -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    step(optimizer)
    del optimizer.state[next(model.parameters())]
    refs = assign_roles(
        [*refs_of(model.state_dict(), "model"), *optimizer_refs(optimizer)], {"optimizer": keys_of(optimizer)}
    )
    assert owners(refs) == [f"model.{name}" for name, _ in model.named_parameters()][1:]


def test_moments_whose_keys_are_names_belong_to_the_parameters_of_those_names() -> None:
    model = net()
    names = [name for name, _ in model.named_parameters()][::-1]
    shapes = {name: p.shape for name, p in model.named_parameters()}
    states = [ref(f"state.{name}.exp_avg", *shapes[name], container="optimizer") for name in names]
    refs = assign_roles(
        [*refs_of(model.state_dict(), "model"), *states], {"optimizer": [(name, None) for name in names]}
    )
    assert owners(refs) == [f"model.{name}" for name in names]


def test_each_of_two_models_owns_the_moments_of_its_optimizer() -> None:
    generator, critic = nn.Linear(2, 3), nn.Linear(4, 5)
    optimizers = {name: step(torch.optim.Adam(m.parameters())) for name, m in (("g", generator), ("d", critic))}
    refs = assign_roles(
        [
            *refs_of(generator.state_dict(), "gen"),
            *refs_of(critic.state_dict(), "disc"),
            *(r for name, optimizer in optimizers.items() for r in optimizer_refs(optimizer, name)),
        ],
        {name: keys_of(optimizer) for name, optimizer in optimizers.items()},
    )
    assert [r.param for r in refs if r.leaf == "exp_avg"] == ["gen.weight", "gen.bias", "disc.weight", "disc.bias"]


def test_statistics_and_counters_own_no_moments() -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW(model.parameters()))
    statistics = {r.path for r in refs if r.role.is_statistic or r.role is Role.BATCH_COUNT}
    assert not statistics & {*owners(refs)}


# Averaged copies


@pytest.mark.parametrize(
    "container",
    [
        "ema",
        "model_ema",
        "ema_state_dict",
        "swa_model",
        "shadow",
        "averaged_model",
        "EMA",
        "state.ema.model",
        "callbacks.StochasticWeightAveraging.average_model_state",
    ],
)
def test_a_copy_in_a_container_of_averages_is_averaged(container: str) -> None:
    refs = assign_roles([*refs_of(net().state_dict(), "model"), *refs_of(net().state_dict(), container)])
    assert {r.averaged for r in refs if r.container == container} == {True}


@pytest.mark.parametrize("container", ["model", "schema", "cinema", "state_dict", "emanet", "average_pooling"])
def test_a_model_of_another_name_is_not_averaged(container: str) -> None:
    refs = assign_roles(refs_of(net().state_dict(), container))
    assert {r.averaged for r in refs} == {False}


def test_an_averaged_copy_inside_the_state_dict_is_told_by_its_first_component() -> None:
    state = net().state_dict()
    refs = assign_roles(refs_of(state) + refs_of({f"model_ema.{name}": t for name, t in state.items()}))
    assert [r.averaged for r in refs] == [False] * len(state) + [True] * len(state)


@pytest.mark.parametrize("container", ["ema", "swa_model"])
@pytest.mark.parametrize("wrapper", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_every_tensor_of_an_averaged_copy_knows_its_twin(container: str, wrapper: str) -> None:
    state = net().state_dict()
    copy = refs_of({wrapper + name: t for name, t in state.items()}, container)
    refs = assign_roles([*refs_of(state, "model"), *copy])
    assert [r.param for r in refs if r.container == container] == [f"model.{name}" for name in state]


def test_the_twin_of_a_copy_is_found_behind_the_prefix_of_ddp() -> None:
    state = net().state_dict()
    live = refs_of({f"module.{name}": t for name, t in state.items()}, "model")
    refs = assign_roles([*live, *refs_of(state, "ema")])
    assert [r.param for r in refs if r.averaged] == [f"model.module.{name}" for name in state]


def test_torchs_averaged_model_knows_the_tensors_of_the_model() -> None:
    model = net()
    averaged = AveragedModel(model).state_dict()
    refs = assign_roles([*refs_of(model.state_dict(), "model"), *refs_of(averaged, "swa_model")])
    twins = {r.name: r.param for r in refs if r.container == "swa_model" and r.name != "n_averaged"}
    assert twins == {f"module.{name}": f"model.{name}" for name in model.state_dict()}


def test_the_counter_of_an_averaged_model_has_no_twin() -> None:
    model = net()
    refs = assign_roles(
        [*refs_of(model.state_dict(), "model"), *refs_of(AveragedModel(model).state_dict(), "swa_model")]
    )
    assert [r.param for r in refs if r.name == "n_averaged"] == [None]


def test_a_copy_of_another_shape_has_no_twin() -> None:
    refs = assign_roles([ref("fc.weight", 3, 2, container="model"), ref("fc.weight", 4, 2, container="ema")])
    assert refs[1].param is None


def test_live_tensors_have_no_twin() -> None:
    state = net().state_dict()
    refs = assign_roles([*refs_of(state, "model"), *refs_of(state, "ema")])
    assert {r.param for r in refs if not r.averaged} == {None}


def test_averaged_copies_own_no_moments() -> None:
    model = net()
    optimizer = step(torch.optim.AdamW(model.parameters()))
    refs = assign_roles(
        [*refs_of(model.state_dict(), "ema"), *refs_of(model.state_dict(), "model"), *optimizer_refs(optimizer)],
        {"optimizer": keys_of(optimizer)},
    )
    assert owners(refs) == [f"model.{name}" for name, _ in model.named_parameters()]


# Names and containers


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("layer1.0.weight", "layer1.0.weight"),
        ("module.layer1.0.weight", "layer1.0.weight"),
        ("_orig_mod.module.layer1.weight", "layer1.weight"),
        ("model_ema.module.layer1.weight", "layer1.weight"),
        ("modules.0.weight", "modules.0.weight"),
        ("encoder.module.weight", "encoder.module.weight"),
        ("", ""),
    ],
)
def test_a_plain_name_lacks_the_wrappers_in_front(name: str, plain: str) -> None:
    assert plain_name(name) == plain


def main(*refs: TensorRef, optimizers: tuple[str, ...] = ()) -> str:
    return main_container(assign_roles(refs, {name: [] for name in optimizers}))


def test_the_main_container_is_the_model_and_not_its_optimizer() -> None:
    model = net()
    refs = checkpoint(model, torch.optim.AdamW(model.parameters()))
    assert main_container(refs) == "model"


def test_the_main_container_is_the_model_and_not_its_averaged_copy() -> None:
    state = net().state_dict()
    assert main(*refs_of(state, "ema"), *refs_of(state, "model")) == "model"


def test_the_main_container_is_the_model_of_most_tensors() -> None:
    assert main(*refs_of(nn.Linear(2, 3).state_dict(), "head"), *refs_of(net().state_dict(), "body")) == "body"


def test_the_main_container_of_a_bare_state_dict_is_the_root() -> None:
    assert main(*refs_of(net().state_dict())) == ""


def test_the_main_container_of_nothing_but_an_averaged_copy_is_that_copy() -> None:
    assert main(*refs_of(net().state_dict(), "ema")) == "ema"


def test_the_main_container_of_nothing_is_the_root() -> None:
    assert main_container(()) == ""


def test_where_lightning_keeps_the_model_beside_the_average_the_state_dict_is_the_average() -> None:
    state = {"bn.weight": torch.ones(2), "bn.running_mean": torch.ones(2), "bn.running_var": torch.ones(2)}
    refs = assign_roles([*refs_of(state, "state_dict"), *refs_of(state, "current_model_state")])
    assert {r.container: r.averaged for r in refs} == {"state_dict": True, "current_model_state": False}
    assert [r.param for r in refs if r.averaged] == [f"current_model_state.{name}" for name in state]
    assert main_container(refs) == "current_model_state"


@pytest.mark.parametrize("container", ["ema", "x.model_ema.y", "SWA_model", "avg_model", "a.shadow"])
def test_every_word_for_an_average_is_looked_for(container):
    assert _says_averaged(container)


@pytest.mark.parametrize(
    "container", ["opt.fp32_master", "fp32_from_fp16_params.0", "fp32_from_float16_params", "master_params"]
)
def test_every_word_for_a_master_copy_is_looked_for(container):
    assert _is_master(container)


@pytest.mark.parametrize("container", ["", "schema", "model", "my_fp32_weights", "." * 1000])
def test_other_containers_are_neither(container):
    assert not _says_averaged(container)
    assert not _is_master(container)


def test_no_pattern_is_tried_on_a_name_without_its_words(monkeypatch):
    """Patterns are slow on long names, of which a small file may hold ten thousand."""
    module = sys.modules["torchmend.rules.roles"]
    monkeypatch.setattr(module, "_AVERAGED", None)
    monkeypatch.setattr(module, "_MASTER", None)
    assert not _says_averaged("b." * 500)
    assert not _is_master("b." * 500)
