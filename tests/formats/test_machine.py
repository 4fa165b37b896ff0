import io
import math
import os
import pickle
import pickletools
import struct
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Import
from torchmend.formats.mapped import MappedFile
from torchmend.formats.pickles import machine, rebuild, state
from torchmend.formats.pickles.machine import Machine
from torchmend.formats.pickles.rebuild import _REBUILDERS
from torchmend.formats.pickles.records import Call, Global, OpaqueKey, Persistent
from torchmend.formats.pickles.state import LARGEST_KEY
from torchmend.formats.pickles.tree import MOST_LISTED, read_tree

PROTOCOLS = range(6)
PROTO = b"\x80\x04"


def run(data: bytes) -> Any:
    return Machine(data).run()


def dumped(value: object, protocol: int = 2) -> Any:
    return run(pickle.dumps(value, protocol))


keys = (
    st.none()
    | st.booleans()
    | st.integers(1 - LARGEST_KEY, LARGEST_KEY - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
)
plain = st.recursive(
    keys | st.text(max_size=300),
    lambda inner: (
        st.lists(inner, max_size=4) | st.lists(inner, max_size=4).map(tuple) | st.dictionaries(keys, inner, max_size=4)
    ),
    max_leaves=12,
)


# Plain data


@pytest.mark.parametrize("protocol", PROTOCOLS)
@quick
@given(value=plain)
def test_plain_data_comes_back_as_it_went_in(protocol: int, value: object) -> None:
    assert repr(dumped(value, protocol)) == repr(pickle.loads(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", [3, 4, 5])
@quick
@given(value=st.binary(max_size=300))
def test_bytes_come_back_as_they_went_in(protocol: int, value: bytes) -> None:
    assert dumped(value, protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [math.inf, -math.inf, -0.0, 5e-324, sys.float_info.max])
def test_extreme_floats_come_back(protocol: int, value: float) -> None:
    assert struct.pack("d", dumped(value, protocol)) == struct.pack("d", value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_float_that_is_nan_comes_back(protocol: int) -> None:
    assert math.isnan(dumped(math.nan, protocol))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [0, -1, 255, 256, 65536, -(2**31), 2**31, 2**63, -(2**63), 2**2050])
def test_integers_of_every_length_come_back(protocol: int, value: int) -> None:
    assert dumped(value, protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", ["", "é\n\\u", "\ud800", "\U0001f600", "x" * 70_000])
def test_texts_of_every_kind_come_back(protocol: int, value: str) -> None:
    assert dumped(value, protocol) == value


def test_long_bytes_of_eight_byte_lengths_come_back() -> None:
    assert run(PROTO + b"\x8e" + struct.pack("<Q", 3) + b"abc.") == b"abc"


def test_a_bytearray_is_read_as_bytes() -> None:
    assert dumped(bytearray(b"abc"), 5) == b"abc"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_objects_stay_shared(protocol: int) -> None:
    inner = [1]
    first, second = dumped([inner, inner], protocol)
    assert first is second


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_list_that_holds_itself_comes_back(protocol: int) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    got = dumped(cycle, protocol)
    assert got[0] is got


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_is_read_as_a_list(protocol: int, kind: type) -> None:
    assert sorted(dumped(kind({3, 1, 2}), protocol)) == [1, 2, 3]


def test_later_values_of_a_key_win_as_in_python() -> None:
    assert run(b"}(K\x01K\x02K\x01K\x03u.") == {1: 3}


def test_what_follows_the_end_is_left_alone() -> None:
    assert run(pickle.dumps(5) + b"rubbish") == 5


def test_a_pickle_can_start_anywhere() -> None:
    assert Machine(b"rubbish" + pickle.dumps(5), start=7).run() == 5


@pytest.mark.parametrize(
    ("line", "expected"), [(b"I01\n", True), (b"I00\n", False), (b"I1\n", 1), (b"L12L\n", 12), (b"F1.5\n", 1.5)]
)
def test_numbers_written_as_text_are_read_as_pickle_reads_them(line: bytes, expected: object) -> None:
    assert repr(run(line + b".")) == repr(pickle.loads(line + b".")) == repr(expected)


@pytest.mark.parametrize("line", [b"S'a\\x41\\n'\n", b'S"it\'s"\n', b"S''\n"])
def test_quoted_strings_are_read_as_pickle_reads_them(line: bytes) -> None:
    assert run(line + b".") == pickle.loads(line + b".", encoding="latin-1")


def test_every_opcode_that_pickletools_knows_is_understood() -> None:
    assert set(Machine(b".").handlers) == {ord(opcode.code) for opcode in pickletools.opcodes}


# Records


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_name_is_recorded_and_not_imported(protocol: int) -> None:
    assert dumped(OrderedDict, protocol) == Global("collections", "OrderedDict")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_ordered_dict_is_recorded_as_a_call_with_its_pairs(protocol: int) -> None:
    call = dumped(OrderedDict(a=1, b=2), protocol)
    assert (call.named("collections.OrderedDict"), call.pairs) == (True, {"a": 1, "b": 2})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_state_of_an_object_is_kept(protocol: int) -> None:
    class_like = np.random.SeedSequence(7)
    assert isinstance(dumped(class_like, protocol), Call)


class _Outside(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", "key") if isinstance(obj, complex) else None


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_a_persistent_id_is_recorded(protocol: int) -> None:
    stream = io.BytesIO()
    _Outside(stream, protocol).dump([1j])
    (reference,) = run(stream.getvalue())
    assert reference.key == ("storage", "key")


def test_an_out_of_band_buffer_is_recorded() -> None:
    assert isinstance(run(b"\x80\x05\x97."), Persistent)


@pytest.mark.parametrize("code", [b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"])
def test_an_extension_code_is_recorded(code: bytes) -> None:
    assert run(b"\x80\x02" + code + b".") == Global("copyreg", "extension 7")


# Hostile pickles


class _Shell:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_command_never_runs(protocol: int, tmp_path: Path) -> None:
    witness = tmp_path / "ran"
    read_tree(dumped(_Shell(witness), protocol))
    assert not witness.exists()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickled_command_is_recorded_with_its_arguments(protocol: int, tmp_path: Path) -> None:
    call = dumped(_Shell(tmp_path / "ran"), protocol)
    assert (call.func, call.args) == (Global(os.system.__module__, "system"), (f"touch '{tmp_path / 'ran'}'",))


@pytest.mark.parametrize(
    "code",
    [
        b"cos\nmkdir\n(VPATH\ntR.",
        b"(VPATH\nios\nmkdir\n.",
        b"(cos\nmkdir\nVPATH\no.",
        b"cos\nmkdir\n(VPATH\nt\x81.",
        b"\x8c\x02os\x8c\x05mkdir\x93(VPATH\ntR.",
        b"cos\nmkdir\n(VPATH\nt}\x92.",
    ],
    ids=["REDUCE", "INST", "OBJ", "NEWOBJ", "STACK_GLOBAL", "NEWOBJ_EX"],
)
def test_no_way_of_calling_calls(code: bytes, tmp_path: Path) -> None:
    target = tmp_path / "made"
    read_tree(run(PROTO + code.replace(b"PATH", str(target).encode())))
    assert not target.exists()


def imports(code: bytes) -> dict[str, Import]:
    machine = Machine(PROTO + code)
    machine.run()
    return {wanted.dotted: wanted for wanted in machine.imports(start=100)}


@pytest.mark.parametrize(
    ("code", "at"),
    [
        (b"Ncos\nmkdir\n.", 3),
        (b"N(ios\nmkdir\n.", 4),
        (b"N\x8c\x02os\x8c\x05mkdir\x93.", 14),
    ],
    ids=["GLOBAL", "INST", "STACK_GLOBAL"],
)
def test_an_import_is_told_where_its_opcode_stands(code: bytes, at: int) -> None:
    wanted = imports(code)["os.mkdir"]
    assert (wanted.at, wanted.place) == (at, 100 + at)
    assert (PROTO + code)[at : at + 1] in b"ci\x93"


@pytest.mark.parametrize("code", [b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"])
def test_an_extension_code_is_told_where_its_opcode_stands(code: bytes) -> None:
    assert imports(b"N" + code + b".")["copyreg.extension 7"].at == 3


def test_a_wish_shows_its_first_call_with_its_arguments() -> None:
    call = b"csubprocess\nPopen\n((lVrm\naV-rf\naK\x07NtR"
    assert imports(call + call + b".")["subprocess.Popen"].call == "subprocess.Popen(['rm', '-rf'], 7, None)"


def test_a_name_that_is_only_imported_shows_no_call() -> None:
    assert imports(b"cos\nmkdir\n.")["os.mkdir"].call == ""


GETATTR = b"cbuiltins\ngetattr\n"
ATTRGETTER = b"coperator\nattrgetter\n"


@pytest.mark.parametrize(
    "walk",
    [
        GETATTR + b"(" + GETATTR + b"(ctorch\nserialization\nVos\ntRVsystem\ntR",
        ATTRGETTER + b"(Vos.system\ntR(ctorch\nserialization\ntR",
    ],
    ids=["getattr", "attrgetter"],
)
def test_a_walk_by_calls_is_told_by_the_name_that_it_ends_at(walk: bytes) -> None:
    wanted = imports(walk + b"(Vtouch x\ntR.")["torch.serialization.os.system"]
    assert wanted.call == "torch.serialization.os.system('touch x')"


def test_a_very_long_walk_keeps_its_last_step() -> None:
    walk = b"ctorch\nnn\n"
    for _ in range(100):
        walk = GETATTR + b"(" + walk + b"Vtorch.nn\ntR"
    found = imports(GETATTR + b"(" + walk + b"Vos\ntR.")
    assert all(len(name) < 300 for name in found)
    assert any(name.endswith(".os") for name in found)


def test_a_state_that_is_set_on_an_import_is_told_as_its_dictionary() -> None:
    assert "torch.nn.__dict__" in imports(b"ctorch\nnn\n}Vx\nK\x01sb.")


def test_a_shown_call_of_endless_arguments_is_short_and_printable() -> None:
    code = b"\x8c\x04os\n\x1b\x8c\x05mkdir\x93(" + (b"]\x94h\x00a" + b"X\xff\xff\x00\x00" + b"\x1b" * 65535) + b"tR."
    (wanted,) = imports(code).values()
    assert wanted.call.isprintable()
    assert len(wanted.call) < 200


@pytest.mark.parametrize("code", [b"cantigravity\nfly\n.", b"\x8c\x0bantigravity\x8c\x03fly\x93."])
def test_a_named_module_is_never_imported(code: bytes) -> None:
    run(PROTO + code)
    assert "antigravity" not in sys.modules


def test_a_built_state_is_never_applied() -> None:
    assert run(b"]}(Vappend\nK\x01ub.") == []


def test_a_million_nested_tuples_are_refused_and_crash_nothing() -> None:
    with pytest.raises(FileError, match="asks for too much"):
        run(PROTO + b")" + b"\x85" * 1_000_000 + b".")


def test_a_million_nested_lists_are_refused_and_crash_nothing() -> None:
    with pytest.raises(FileError, match="asks for too much"):
        run(PROTO + b"]" * 1_000_000 + b"a" * 999_999 + b".")


def test_a_million_nested_calls_crash_nothing() -> None:
    value = run(PROTO + b"N" * 300_000 + b")" + b"\x85R" * 300_000 + b".")
    with pytest.raises(FileError, match="nests deeper"):
        read_tree(value)


@pytest.mark.parametrize("name", ["_rebuild_parameter", "_rebuild_sparse_tensor", "_rebuild_nested_tensor"])
def test_calls_of_rebuilders_nested_deeply_are_malformed_and_crash_nothing(name: str) -> None:
    func = b"ctorch._utils\n%s\n\x940" % name.encode()
    value = run(PROTO + func + b"h\x00" * 20_000 + b")" + b"\x85R" * 20_000 + b".")
    assert len(read_tree(value).malformed) == 1


STORAGE = b"(Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nK\x01tQ"


@pytest.mark.parametrize("leaf", [b"N", STORAGE], ids=["nothing", "storage"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("_rebuild_sparse_tensor", b"Vcoo\n(GGNNtt"),
        ("_rebuild_sparse_tensor", b"Vcoo\n(GGtt"),
        ("_rebuild_sparse_csr_tensor", b"Vcsr\n(GGGNtt"),
        ("_rebuild_nested_tensor", b"GGGGt"),
    ],
)
def test_tensors_nested_in_tensors_are_not_followed_again_and_again(
    name: str, arguments: bytes, leaf: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = leaf
    for memo in range(7):
        get = b"h" + bytes([memo])
        code += b"\x940ctorch._utils\n%s\n(" % name.encode() + arguments.replace(b"G", get) + b"R"
    calls: list[object] = []
    followed = rebuild.tensors_of
    monkeypatch.setattr(rebuild, "tensors_of", lambda value: calls.append(value) or followed(value))
    read_tree(run(PROTO + code + b"."))
    assert len(calls) < 100  # 2**7 and more, if every level follows the one below it twice


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_walking_a_cyclic_structure_ends(protocol: int) -> None:
    cycle: dict[str, Any] = {"lr": 0.5, "list": []}
    cycle["self"] = cycle
    cycle["list"].append(cycle)
    assert [scalar.value for scalar in read_tree(dumped(cycle, protocol)).scalars] == [0.5]


def test_doubling_lists_do_not_multiply() -> None:
    value: list[Any] = [1]
    for _ in range(60):
        value = [value, value]
    assert len(read_tree(dumped(value)).scalars) == 1


@pytest.mark.parametrize(
    "code",
    [
        b"\x8e" + struct.pack("<Q", 2**63),
        b"\x8e" + struct.pack("<Q", 2**64 - 1),
        b"\x8d" + struct.pack("<Q", 2**62),
        b"\x96" + struct.pack("<Q", 2**62),
        b"B" + struct.pack("<I", 2**32 - 1),
        b"X" + struct.pack("<I", 2**32 - 1),
        b"T" + struct.pack("<i", 2**31 - 1),
        b"T" + struct.pack("<i", -1),
        b"\x8b" + struct.pack("<i", 2**31 - 1),
        b"\x8b" + struct.pack("<i", -1),
        b"\x8a\xff",
        b"U\xff",
        b"C\xff",
        b"\x8c\xff",
    ],
)
def test_a_length_beyond_the_end_is_malformed(code: bytes) -> None:
    with pytest.raises(FileError, match="malformed"):
        run(PROTO + code + b"abc.")


@pytest.mark.parametrize(
    "key", [b"]", b"}", b"(K\x01]t", b")", b"cos\nsystem\n", b"cos\nsystem\n)R", b"Vx\nQ"],
    ids=["list", "dict", "tuple with a list", "tuple", "name", "call", "persistent"],
)  # fmt: skip
def test_a_key_that_is_no_plain_value_is_kept_opaque(key: bytes) -> None:
    (got,) = run(PROTO + b"}" + key + b"K\x05s.")
    assert isinstance(got, OpaqueKey)


@pytest.mark.parametrize("key", [b"]", b"(K\x01]t", b"cos\nsystem\n)R"])
def test_the_value_of_an_opaque_key_is_walked(key: bytes) -> None:
    tree = read_tree(run(PROTO + b"}" + key + b"K\x05s."))
    assert [scalar.value for scalar in tree.scalars] == [5]


@pytest.mark.parametrize(
    "code",
    [
        b"",
        b".",
        b"\xff.",
        b"\x80\x06N.",
        b"0.",
        b"2.",
        b"e.",
        b"t.",
        b"K\x01t.",
        b"h\x00.",
        b"gx\n.",
        b"K\x01K\x02a.",
        b"K\x01K\x02K\x03s.",
        b"}(K\x01u.",
        b"]Vx\nK\x01s.",
        b"S'x\n.",
        b"Sx\n.",
        b"S\n.",
        b"Ix\n.",
        b"Fx\n.",
        b"X\x01\x00\x00\x00\xff.",
        b"K\x01K\x02\x93.",
        b"(o.",
        b"c\xff\nx\n.",
        b"VU\\U00110000\n.",
        b"I" + b"9" * 5000 + b"\n.",
    ],
)
def test_a_malformed_pickle_is_a_file_error(code: bytes) -> None:
    with pytest.raises(FileError, match="malformed"):
        run(code)


@pytest.mark.parametrize("code", [b"(.", b"((t(."])
def test_a_mark_at_the_end_is_no_value(code: bytes) -> None:
    with pytest.raises(FileError, match="malformed"):
        run(code)


def test_a_string_with_an_unknown_escape_warns_nobody() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(b"S'\\d'\n.") == "\\d"


def test_a_pickle_of_too_many_opcodes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MOST_OPCODES", 10)
    with pytest.raises(FileError, match="more than 10 opcodes"):
        run(b"N0" * 10 + b"N.")


def test_a_pickle_of_too_many_objects_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST_MEMORY", 1 << 20)
    with pytest.raises(FileError, match="more than 1 MiB"):
        run(b"]" * 10_000 + b".")


TRAINED = {
    "text": "é",
    "numbers": [1, 2**40, 1.5, True, None, -7, 300],
    "bytes": b"abc",
    "nested": ({"a": (1, 2, 3, 4)}, [], ()),
    "ordered": OrderedDict(x=1),
    "long": "x" * 300,
    "array": np.arange(3.0),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_off_at_any_byte_is_malformed(protocol: int) -> None:
    whole = pickle.dumps(TRAINED, protocol)
    for cut in range(len(whole)):
        with pytest.raises(FileError, match="malformed"):
            run(whole[:cut])


def value_or_file_error(data: bytes) -> None:
    try:
        value = run(data)
        read_tree(value)
    except FileError:
        pass


@quick
@given(st.binary(max_size=200))
def test_random_bytes_give_a_value_or_a_file_error(data: bytes) -> None:
    value_or_file_error(data)


opcodes = st.sampled_from([opcode.code.encode("latin-1") for opcode in pickletools.opcodes])
arguments = st.sampled_from([b"\x00", b"\x01", b"\x00\x00\x00\x00", b"1\n", b"x\n", b"'a'\n", b"N", b"]", b")"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@quick
@given(codes=st.lists(opcodes | arguments, max_size=40))
def test_random_opcodes_give_a_value_or_a_file_error(protocol: int, codes: list[bytes]) -> None:
    value_or_file_error(bytes([0x80, protocol]) + b"".join(codes) + b".")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@quick
@given(data=st.data())
def test_a_pickle_with_random_bytes_in_it_gives_a_value_or_a_file_error(protocol: int, data: st.DataObject) -> None:
    whole = bytearray(pickle.dumps(TRAINED, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    value_or_file_error(bytes(whole))


names = st.sampled_from([*_REBUILDERS, "numpy.core.multiarray.scalar", "numpy.dtype", "torch.Size", "torch.float32",
                         "torch.FloatStorage", "torch.UntypedStorage", "_codecs.encode",
                         "torch._utils._rebuild_wrapper_subclass"])  # fmt: skip
globals_ = names.map(lambda dotted: Global(*dotted.rsplit(".", 1)))
storages = st.tuples(st.just("storage"), globals_, st.text(max_size=2), st.just("cpu"), st.integers(-2, 2**70)).map(
    Persistent
)
atoms = st.none() | st.booleans() | st.integers(-2, 2**70) | st.sampled_from(["f4", "<", "latin1", ""]) | globals_
objects = st.recursive(
    atoms | storages | st.binary(max_size=9) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, max_size=6).map(tuple)
        | st.dictionaries(st.text(max_size=1) | st.integers(0, 1), inner, max_size=3)
        | st.builds(Call, globals_ | inner, inner, inner)
    ),
    max_leaves=20,
)


@quick
@given(objects)
def test_a_tree_of_random_records_is_read_or_a_file_error(value: object) -> None:
    try:
        read_tree(value)
    except FileError:
        pass


DTYPE = Global("numpy", "dtype")
SCALAR = Global("numpy.core.multiarray", "scalar")


@pytest.mark.parametrize(
    "args", [{}, {"a": 1}, None, 5, (), (1,), [], "x", (Call(DTYPE, {}), b""), (Call(DTYPE, ([],)), b"")]
)
def test_a_numpy_scalar_with_wrong_arguments_is_no_number_and_no_crash(args: object) -> None:
    assert read_tree([Call(SCALAR, args)]).leaves == []


@pytest.mark.parametrize("dotted", list(_REBUILDERS))
@pytest.mark.parametrize("args", [{}, None, 5, (), (1,), [], "x"], ids=repr)
def test_a_rebuilder_with_wrong_arguments_gives_no_tensor_and_no_crash(dotted: str, args: object) -> None:
    assert read_tree([Call(Global(*dotted.rsplit(".", 1)), args)]).leaves == []


class Unprintable:
    """Stands for a structure whose text would be endless: lists of lists, each in there twice."""

    def __repr__(self) -> str:
        raise AssertionError("asked for its text")


SPARSE = Global("torch._utils", "_rebuild_sparse_tensor")
ENCODE = Global("_codecs", "encode")
MODULE = Global("torch.nn.modules.linear", "Linear")
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
WRAPPER = Global("torch._utils", "_rebuild_wrapper_subclass")
DOUBLE = Call(DTYPE, ("f8", False, True))

UNPRINTABLE: dict[str, Callable[[], object]] = {
    "layout": lambda: Call(SPARSE, (Unprintable(), ())),
    "layout in a call": lambda: Call(SPARSE, (Call(None, (Unprintable(),)), ())),
    "text of a number": lambda: Call(SCALAR, (DOUBLE, Call(ENCODE, (Unprintable(), "latin1")))),
    "module": lambda: Call(MODULE, (), state={"_parameters": {}, OpaqueKey(Unprintable()): 1}),
    "key": lambda: {OpaqueKey(Unprintable()): 1},
    "wrapper": lambda: Call(FROM_TYPE, (WRAPPER, None, (), {OpaqueKey(Unprintable()): 1})),
    "function": lambda: Call(Unprintable(), (Unprintable(),)),
    "persistent": lambda: Persistent(Unprintable()),
}


@pytest.mark.parametrize("kind", UNPRINTABLE)
def test_no_structure_is_ever_written_out_as_text(kind: str) -> None:
    assert read_tree([UNPRINTABLE[kind]()]).leaves == []


def test_a_number_made_of_deeply_nested_lists_crashes_nothing() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        read_tree([Call(SCALAR, (DOUBLE, Call(ENCODE, (deep, "latin1"))))])
    except FileError:
        pass


@pytest.mark.parametrize("parts", [(None, None, None, None), (1, 2), ([], {}, (), "")], ids=repr)
def test_a_sparse_tensor_whose_parts_are_not_understood_is_not_passed_over(parts: tuple[object, ...]) -> None:
    layout = Call(Global("torch.serialization", "_get_layout"), ("torch.sparse_coo",))
    assert len(read_tree([Call(SPARSE, (layout, parts))]).malformed) == 1


# Several pickles in one buffer, mapped or not


def test_another_run_reads_the_pickle_that_follows_with_a_memo_of_its_own() -> None:
    both = Machine(pickle.dumps(["a", "a"], 4) + pickle.dumps(["b", "b"], 4))
    assert [both.run(), both.run()] == [["a", "a"], ["b", "b"]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_mapped_file_reads_as_its_bytes_do(tmp_path: Path, protocol: int) -> None:
    value = {"text": "a\nb", "number": 7, "float": 0.5, "list": [1, None, True], "long": 1 << 70}
    path = tmp_path / "a.pkl"
    path.write_bytes(b"before" + pickle.dumps(value, protocol) + b"behind")
    with MappedFile(path) as file:
        mapped = Machine(file.buffer, start=6)
        assert mapped.run() == value
        assert file.read(mapped.state.position, 6) == b"behind"


def test_what_is_named_outside_the_pickle_can_be_put_in_place() -> None:
    assert Machine(b"\x80\x02X\x01\0\0\0aQ.", persistent=lambda key: key * 3).run() == "aaa"


@pytest.mark.parametrize(
    ("data", "cut"),
    [(b"", True), (b"\x80\x02X\x09\0\0\0abc", True), (b"Vabc", True), (b"\x80\x02]", True), (b"\x80\x02a.", False)],
)
def test_a_pickle_that_was_cut_is_told_from_one_that_is_wrong(data: bytes, cut: bool) -> None:
    machine = Machine(data)
    with pytest.raises(FileError):
        machine.run()
    assert machine.is_cut == cut


def test_the_length_of_a_text_is_accounted_for_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MOST_MEMORY", 1000)
    monkeypatch.setattr(
        state.State, "take", lambda self, length: pytest.fail("read") if length > 999 else b"\xd0\7\0\0"
    )
    with pytest.raises(FileError, match="asks for too much"):
        Machine(b"X\xd0\7\0\0" + bytes(2000)).run()


# Bounds that fuzzing asked for


def test_a_whole_number_whose_hash_is_shared_is_an_opaque_key() -> None:
    (key,) = run(pickle.dumps({(1 << 61) - 1: 0}))
    assert isinstance(key, OpaqueKey)


@pytest.mark.parametrize("key", [b"-1", str(1 << 61).encode()])
def test_a_memo_key_that_no_pickler_writes_is_malformed(key: bytes) -> None:
    with pytest.raises(FileError, match="malformed"):
        run(b"Np" + key + b"\n.")


def test_names_that_a_deep_place_repeats_very_often_are_refused() -> None:
    value = run(PROTO + b"]" * 300 + b"(" + b"K\x07" * 9000 + b"e" + b"a" * 299 + b".")
    with pytest.raises(FileError, match="names more than fits"):
        read_tree(value, 1 << 20)


def test_a_tensor_that_is_named_very_often_is_refused() -> None:
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00))\x89}tR"
    value = run(PROTO + tensor + b"\x940](" + b"h\x00" * 20_000 + b"e.")
    with pytest.raises(FileError, match="times over"):
        read_tree(value)


def test_a_long_list_keeps_its_first_numbers_and_every_one_that_is_not_finite() -> None:
    scalars = read_tree([1.0] * 20_000 + [math.nan]).scalars
    assert len(scalars) == MOST_LISTED + 1
    assert scalars[-1].path == (20_000,)


def test_an_optimizer_that_lists_its_parameters_over_and_over_tells_nothing() -> None:
    group = {"params": list(range(1000))}
    assert read_tree({"state": {}, "param_groups": [group] * 1000}).optimizers == {(): ()}


def test_one_text_that_is_encoded_for_many_arrays_is_encoded_once() -> None:
    encode = Call(ENCODE, ("x" * 8, "latin1"))
    arrays_ = [Call(SCALAR, (DOUBLE, encode)) for _ in range(3)]
    read_tree(arrays_)
    assert encode.encoded == b"x" * 8


def test_a_shape_of_very_many_dimensions_is_malformed() -> None:
    numbers = b"(" + b"K\x01" * 1000 + b"t"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + STORAGE + b"K\x00" + numbers + numbers + b"\x89}tR"
    assert len(read_tree(run(PROTO + tensor + b".")).malformed) == 1
