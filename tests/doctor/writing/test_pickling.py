"""What is written is what Python's own unpickler, and torch's, reads."""

import io
import pickle
import pickletools

import pytest

from torchmend.doctor.writing.pickling import Described, _integer, pickled
from torchmend.facts.dtypes import DTYPES


def described(**changes):
    plain = {"key": "0", "nbytes": 8, "dtype": DTYPES["float32"], "offset": 0, "shape": (2,), "strides": (1,)}
    return Described(**{**plain, **changes})


@pytest.mark.parametrize("value", [0, 1, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 40) + 3, (1 << 63) - 1])
def test_an_integer_of_any_size_comes_back(value):
    assert pickle.loads(b"\x80\x02" + _integer(value) + b".") == value


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 3, 4), (1, 2, 3, 4, 5)])
def test_the_pickle_is_well_formed_and_of_protocol_2(shape):
    data = pickled({"m": {"w": described(shape=shape, strides=shape)}, "e": {}, "x": described(dtype=DTYPES["uint32"])})
    opcodes = [opcode for opcode, _, _ in pickletools.genops(data)]
    assert max(opcode.proto for opcode in opcodes) <= 2
    pickletools.dis(data, out=io.StringIO())


def test_a_constant_is_written_once_however_many_tensors_need_it():
    data = pickled({str(number): described() for number in range(50)})
    assert data.count(b"_rebuild_tensor_v2") == data.count(b"FloatStorage") == data.count(b"OrderedDict") == 1
