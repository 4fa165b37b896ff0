"""How sizes are read, and how tensors are shared out among files."""

import pytest

from torchmend.doctor.writing.parcels import Parcel
from torchmend.doctor.writing.sharded import parse_size, split
from torchmend.facts.dtypes import DTYPES
from torchmend.facts.errors import UserError
from torchmend.formats.contents import StoredTensor


def parcel(nbytes):
    tensor = StoredTensor(container="", name="t", dtype=DTYPES["uint8"], shape=(nbytes,), strides=(1,))
    return Parcel(container="", name="t", tensor=tensor, files=())


def shares(sizes, most):
    return [[each.nbytes for each in shard] for _, shard in split([parcel(n) for n in sizes], most)]


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [("5GB", 5_000_000_000), ("512MiB", 512 << 20), ("1000000", 10**6), ("1.5 kb", 1500), ("1B", 1), ("2tib", 2 << 40)],
)
def test_a_size_is_read(text, nbytes):
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["", "GB", "5G", "-1", "0", "1e9", "0.1B", "5 5"])
def test_what_is_no_size_is_a_mistake(text):
    with pytest.raises(UserError, match="is no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("sizes", "most", "expected"),
    [
        ([3, 3, 3], 6, [[3, 3], [3]]),
        ([10, 1, 1], 2, [[10], [1, 1]]),
        ([1, 10, 0, 1], 2, [[1], [10], [0, 1]]),
        ([0, 0], 1, [[0, 0]]),
    ],
)
def test_tensors_are_shared_out_in_order(sizes, most, expected):
    assert shares(sizes, most) == expected


def test_files_are_numbered_from_one():
    assert [name for name, _ in split([parcel(2), parcel(2)], 2)] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]
