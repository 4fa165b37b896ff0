"""Names folded into a tree, and alike siblings into one."""

from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.facts.findings import Measure
from torchmend.facts.tensors import TensorRef
from torchmend.reports.inspection_tree import Folder, together, tree


def refs(*names, shape=(2,)):
    return [TensorRef(source="", container="", name=name, shape=shape, dtype="float32") for name in names]


def shown(nodes):
    return [(node.name, node.alike) for node in nodes]


part = st.sampled_from(["a", "b", "0", "1", "2", "3", "4"])


@quick
@given(st.lists(st.lists(part, min_size=1, max_size=4).map(".".join), unique=True), st.booleans())
def test_folding_loses_no_tensor_and_doubles_none(names, loose):
    every = refs(*names)
    folded = Folder(loose=loose).fold(tree(every))
    found = [ref.name for node in folded for ref in node.tensors()]
    assert sorted(found) == sorted(names)


def test_a_lone_child_is_joined_with_its_parent():
    assert shown(tree(refs("a.b.c.weight", "a.b.c.bias"))) == [("a.b.c", 1)]


def test_three_alike_blocks_become_one_and_two_do_not():
    three = Folder().fold(tree(refs(*(f"{i}.{leaf}" for i in range(3) for leaf in "ab"))))
    two = Folder().fold(tree(refs(*(f"{i}.{leaf}" for i in range(2) for leaf in "ab"))))
    assert (shown(three), shown(two)) == ([("0..2", 3)], [("0", 1), ("1", 1)])


def test_another_shape_keeps_a_block_apart_unless_loose():
    mixed = [*refs("0.w", "1.w", "2.w"), *refs("3.w", shape=(5,))]
    assert shown(Folder().fold(tree(mixed))) == [("0..2.w", 3), ("3.w", 1)]
    assert shown(Folder(loose=True).fold(tree(mixed))) == [("0..3.w", 4)]


def test_names_that_are_no_numbers_are_not_folded():
    assert len(Folder().fold(tree(refs("a.w", "b.w", "c.w")))) == 3


def test_the_range_of_several_is_known_only_if_that_of_each_is():
    counted = Measure(numel=1, absmax=2.0, minimum=-2.0, maximum=1.0)
    screened = Measure(numel=1, absmax=3.0)
    both = together([counted, screened])
    assert (both.minimum, both.maximum, both.absmax) == (None, None, 3.0)
    assert together([counted, counted]).minimum == -2.0
    assert together([]) is None
