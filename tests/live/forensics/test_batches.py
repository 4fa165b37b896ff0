"""Batches of many shapes are counted and divided by their examples."""

from collections import OrderedDict
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from torchmend.live.forensics.batches import examples_in, taken
from torchmend.live.tensors import tensors_of

ROWS, LABELS = torch.arange(12.0).reshape(4, 3), torch.arange(4)


class Pair(NamedTuple):
    rows: Tensor
    labels: Tensor


@dataclass
class Box:
    rows: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        ROWS,
        (ROWS, LABELS),
        [ROWS, LABELS, torch.tensor(0.5)],
        {"rows": ROWS, "labels": LABELS, "name": "x", "mask": torch.ones(3, 3)},
        OrderedDict(rows=ROWS, more=(LABELS, {"again": ROWS})),
        Pair(ROWS, LABELS),
    ],
)
def test_tensors_are_divided_by_the_first_dimension_that_most_share(batch):
    assert examples_in(batch) == 4
    part = taken(batch, (1, 3), 4)
    assert type(part) is type(batch)
    assert torch.equal(tensors_of(part)[0], ROWS[[1, 3]])


def test_tensors_of_another_first_dimension_are_taken_whole():
    part = taken((ROWS, LABELS, torch.ones(3)), (2,), 4)
    assert [len(each) for each in part] == [1, 1, 3]


def test_pictures_of_many_sizes_are_divided_with_their_targets():
    pictures = [torch.rand(3, size, size) for size in (4, 5, 6)]
    targets = [{"boxes": torch.rand(count, 4)} for count in (1, 2, 3)]
    assert examples_in((pictures, targets)) == 3
    some, theirs = taken((pictures, targets), (2,), 3)
    assert some[0] is pictures[2]
    assert theirs[0] is targets[2]


@pytest.mark.parametrize("batch", [None, 3, "text", torch.tensor(1.0), [], {}])
def test_what_has_no_examples_has_none(batch):
    assert examples_in(batch) == 0


def test_tensors_are_found_in_mappings_and_dataclasses_that_torch_does_not_know():
    assert len(tensors_of([MappingProxyType({"a": ROWS, "b": (LABELS,)}), Box(ROWS), Box])) == 3
