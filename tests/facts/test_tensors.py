"""Names, sizes and roles of tensors."""

import dataclasses

import pytest

from torchmend.facts.tensors import NormLayer, Role, Scalar, TensorRef


def ref(name="layer1.0.bn1.running_mean", container="model", shape=(64,), dtype="float32", **more):
    return TensorRef(source="x.pth", container=container, name=name, shape=shape, dtype=dtype, **more)


@pytest.mark.parametrize(("shape", "numel"), [((), 1), ((0,), 0), ((64,), 64), ((2, 3, 4), 24), ((5, 0), 0)])
def test_numel_is_the_product_of_the_sizes(shape, numel):
    assert ref(shape=shape).numel == numel


@pytest.mark.parametrize(
    ("container", "path"), [("model", "model.a.weight"), ("", "a.weight"), ("extra.model", "extra.model.a.weight")]
)
def test_the_path_joins_container_and_name(container, path):
    assert ref("a.weight", container).path == path


@pytest.mark.parametrize(
    ("name", "prefix", "leaf"),
    [("layer1.0.bn1.running_mean", "layer1.0.bn1", "running_mean"), ("weight", "", "weight"), ("a.b", "a", "b")],
)
def test_a_name_splits_into_prefix_and_leaf(name, prefix, leaf):
    assert (ref(name).prefix, ref(name).leaf) == (prefix, leaf)


def test_the_element_type_is_looked_up_by_name():
    assert ref(dtype="bfloat16").element.itemsize == 2


def test_equal_fields_make_equal_refs_that_serve_as_keys():
    assert {ref(): "found"}[ref()] == "found"


@pytest.mark.parametrize("field", ["name", "container", "dtype", "role"])
def test_refs_with_a_different_field_differ(field):
    assert dataclasses.replace(ref(), **{field: Role.BIAS if field == "role" else "other"}) != ref()


def test_refs_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        ref().name = "other"


def test_refs_take_no_positional_arguments():
    with pytest.raises(TypeError):
        TensorRef("x.pth", "model", "a", (1,), "float32")


@pytest.mark.parametrize("role", list(Role))
def test_a_role_belongs_to_one_group_at_most(role):
    assert role.is_statistic + role.is_learned + role.is_optimizer <= 1


@pytest.mark.parametrize(
    ("group", "roles"),
    [
        ("is_statistic", {Role.RUNNING_MEAN, Role.RUNNING_VAR}),
        ("is_learned", {Role.WEIGHT, Role.BIAS}),
        ("is_optimizer", {Role.FIRST_MOMENT, Role.SECOND_MOMENT, Role.OPTIMIZER_STEP, Role.OPTIMIZER_STATE}),
        ("is_nonnegative", {Role.RUNNING_VAR, Role.SECOND_MOMENT}),
    ],
)
def test_the_groups_of_roles(group, roles):
    assert {role for role in Role if getattr(role, group)} == roles


def test_a_layer_has_as_many_channels_as_its_mean():
    mean, var = ref("bn.running_mean", shape=(12,)), ref("bn.running_var", shape=(12,))
    assert NormLayer(container="model", prefix="bn", mean=mean, var=var).channels == 12


def test_scalars_are_equal_by_value():
    assert Scalar(path=("lr", 0), value=0.1) == Scalar(path=("lr", 0), value=0.1)
