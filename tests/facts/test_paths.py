"""Paths of nested dictionaries, and the containers that they are split into."""

from torchmend.facts.paths import component, joined, parameter_keys, split_paths


def test_a_path_is_written_with_dots():
    assert joined(("model", 0, "weight")) == "model.0.weight"


def test_keys_of_every_kind_become_components():
    assert [component(key) for key in ("a", 3, b"b", None, 2**300)] == ["a", 3, "b", "None", "(unnamed)"]


def test_a_mapping_that_holds_half_of_its_tensors_itself_is_a_container():
    paths = [("model", "a.weight"), ("model", "b.weight"), ("epoch",)]
    assert split_paths(paths, ()) == [("model", "a.weight"), ("model", "b.weight"), ("", "epoch")]


def test_a_whole_is_a_container_however_deep_its_tensors_lie():
    paths = [("net", "layer", "conv", "weight"), ("net", "layer", "norm", "weight"), ("x", "y", "z"), ("w", "y", "z")]
    assert split_paths(paths, {("net",)})[:2] == [("net", "layer.conv.weight"), ("net", "layer.norm.weight")]


def test_a_lone_tensor_has_a_name_too():
    assert split_paths([()], ()) == [("", "(tensor)")]


def test_parameters_are_listed_in_the_order_of_their_groups_with_their_names():
    groups = [{"params": [1, 0], "param_names": ["b", "a"]}, {"params": ["x"]}, {"params": 3}, 7]
    assert parameter_keys(groups) == (("1", "b"), ("0", "a"), ("x", None))
