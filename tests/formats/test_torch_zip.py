import argparse
import io
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import bad_files
from strategies import FLOATING, quick
from torchmend.facts.codes import Code
from torchmend.facts.dtypes import DTYPES, Kind
from torchmend.facts.errors import FileError
from torchmend.formats.contents import Contents, Extent, StoredTensor
from torchmend.formats.registry import read_contents

Files = dict[str, bytes]
Read = Callable[..., Contents]


@pytest.fixture
def read(tmp_path: Path) -> Iterator[Read]:
    """Save an object with torch and read the file's contents; files are closed at the end."""
    opened: list[Contents] = []

    def save_and_read(obj: object, *, protocol: int = 2, edit: Callable[[Files], Files] | None = None) -> Contents:
        path = tmp_path / f"{len(opened)}.pt"
        torch.save(obj, path, pickle_protocol=protocol)
        if edit is not None:
            rewrite(path, edit)
        opened.append(read_contents(path))
        return opened[-1]

    yield save_and_read
    for contents in opened:
        contents.close()


def rewrite(path: Path, edit: Callable[[Files], Files], compression: int = zipfile.ZIP_STORED) -> None:
    """Write the archive anew with other members; the names given to `edit` lack the archive's folder."""
    with zipfile.ZipFile(path) as archive:
        folder = archive.namelist()[0].split("/")[0]
        files = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in edit(files).items():
            archive.writestr(f"{folder}/{name}", data)


def bits(tensor: torch.Tensor) -> bytes:
    """Return the bytes of the elements, row-major, in native order."""
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def stored_bits(contents: Contents, tensor: StoredTensor) -> bytes:
    raw = tensor.raw(contents.files)
    return raw.astype(raw.dtype.newbyteorder("=")).tobytes()


def described(contents: Contents) -> dict[str, tuple[Any, ...]]:
    """Give path -> everything that must agree with torch."""
    return {
        ".".join(filter(None, (t.container, t.name))): (
            t.dtype.name, t.shape, t.strides, t.offset, t.misfit(), t.absent, stored_bits(contents, t),
        )
        for t in contents.tensors
    }  # fmt: skip


def expected(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[Any, ...]]:
    return {
        name: (
            str(t.dtype).removeprefix("torch."), tuple(t.shape), t.stride(), t.storage_offset(), "", "", bits(t),
        )
        for name, t in tensors.items()
    }  # fmt: skip


def flattened(value: object, path: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Find every tensor below dictionaries and lists, in order."""
    if isinstance(value, torch.Tensor):
        return {".".join(path): value}
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {k: t for key, item in items for k, t in flattened(item, (*path, str(key))).items()}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("table", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(x)).mean((2, 3))) * self.scale


def trained() -> tuple[Net, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 5, 5)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def training_checkpoint() -> dict[str, Any]:
    model, optimizer = trained()
    return {
        "epoch": 3,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
        "best_psnr": 31.5,
        "note": "first run",
        "rng": torch.get_rng_state(),
    }


# What torch saved is what is read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_is_read_as_torch_saved_it(read: Read, protocol: int) -> None:
    state = trained()[0].state_dict()
    assert described(read(state, protocol=protocol)) == expected(state)


def test_tensors_stand_in_the_order_of_the_state_dict(read: Read) -> None:
    state = trained()[0].state_dict()
    assert [tensor.name for tensor in read(state).tensors] == list(state)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_training_checkpoint_is_read_as_torch_saved_it(read: Read, protocol: int) -> None:
    checkpoint = training_checkpoint()
    assert described(read(checkpoint, protocol=protocol)) == expected(flattened(checkpoint))


def test_the_parts_of_a_training_checkpoint_are_containers(read: Read) -> None:
    containers = {tensor.container for tensor in read(training_checkpoint()).tensors}
    assert containers == {"model_state_dict", "optimizer_state_dict", ""}


def test_names_in_a_training_checkpoint_are_those_of_the_state_dict(read: Read) -> None:
    checkpoint = training_checkpoint()
    names = [t.name for t in read(checkpoint).tensors if t.container == "model_state_dict"]
    assert names == list(checkpoint["model_state_dict"])


def test_an_optimizer_gives_its_parameters_in_the_order_of_its_groups(read: Read) -> None:
    model = Net()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}])
    keys = [(str(at), None) for at in range(len(matrices) + len(vectors))]
    assert read({"opt": optimizer.state_dict()}).optimizers == {"opt": tuple(keys)}


def test_an_optimizer_over_named_parameters_gives_their_names(read: Read) -> None:
    model = Net()
    optimizer = torch.optim.AdamW(model.named_parameters())
    names = [(str(at), name) for at, (name, _) in enumerate(model.named_parameters())]
    assert read({"opt": optimizer.state_dict()}).optimizers == {"opt": tuple(names)}


def test_a_bare_optimizer_state_is_the_root_container(read: Read) -> None:
    contents = read(trained()[1].state_dict())
    assert set(contents.optimizers) == {""}


def test_several_optimizers_are_all_found(read: Read) -> None:
    states = [trained()[1].state_dict(), trained()[1].state_dict()]
    assert set(read({"optimizer_states": states}).optimizers) == {"optimizer_states.0", "optimizer_states.1"}


def test_numbers_and_texts_are_kept_with_their_paths(read: Read) -> None:
    scalars = {scalar.path: scalar.value for scalar in read(training_checkpoint()).scalars}
    assert (scalars["epoch",], scalars["best_psnr",], scalars["note",]) == (3, 31.5, "first run")


def test_the_state_of_a_grad_scaler_is_kept_as_numbers(read: Read) -> None:
    state = torch.amp.GradScaler("cpu").state_dict()
    scalars = {scalar.path: scalar.value for scalar in read({"scaler": state}).scalars}
    assert scalars == {("scaler", key): value for key, value in state.items()}


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_whole_pickled_module_has_the_names_of_its_state_dict(read: Read, protocol: int) -> None:
    model = trained()[0]
    assert described(read(model, protocol=protocol)) == expected(model.state_dict())


def test_a_whole_pickled_module_inside_a_checkpoint_is_a_container(read: Read) -> None:
    contents = read({"epoch": 1, "model": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))})
    assert {tensor.container for tensor in contents.tensors} == {"model"}


def test_a_module_that_is_not_torchs_own_needs_no_import(read: Read) -> None:
    def rename(files: Files) -> Files:
        return files | {"data.pkl": files["data.pkl"].replace(b"torch.nn.modules.linear", b"nobody.has_this.module_")}

    model = nn.Linear(2, 3)
    assert described(read(model, edit=rename)) == expected(model.state_dict())


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_namespace_of_arguments_is_kept_with_dotted_paths(read: Read, protocol: int) -> None:
    args = argparse.Namespace(lr=0.1, name="x", betas=(0.9, 0.99))
    scalars = [(s.path, s.value) for s in read({"args": args}, protocol=protocol).scalars]
    assert scalars == [
        (("args", "lr"), 0.1), (("args", "name"), "x"), (("args", "betas", 0), 0.9), (("args", "betas", 1), 0.99),
    ]  # fmt: skip


def test_a_tensor_in_a_namespace_is_found(read: Read) -> None:
    tensor = torch.arange(3.0)
    assert described(read({"args": argparse.Namespace(mean=tensor)})) == expected({"args.mean": tensor})


@pytest.mark.parametrize("kind", [dict, OrderedDict, lambda pairs: defaultdict(list, pairs)])
def test_every_kind_of_dictionary_is_walked(read: Read, kind: Callable[[Any], Any]) -> None:
    tensors = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert described(read({"state": kind(tensors)})) == expected(flattened({"state": tensors}))


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_and_tuples_give_numbers_as_names(read: Read, kind: type) -> None:
    values = kind([torch.ones(2), torch.zeros(3)])
    assert described(read({"x": values})) == expected({"x.0": values[0], "x.1": values[1]})


def test_keys_that_are_numbers_are_names(read: Read) -> None:
    assert [t.name for t in read({0: torch.ones(1), 7: torch.ones(1)}).tensors] == ["0", "7"]


# Element types


def tensor_of(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    if dtype == torch.bool:
        return torch.arange(int(np.prod(shape))).reshape(shape) % 2 == 0
    data = torch.from_numpy(np.random.default_rng(1).integers(0, 256, nbytes, dtype=np.uint8))
    return data.view(dtype).reshape(shape)


PLAIN = [name for name, dtype in DTYPES.items() if dtype.kind is not Kind.PACKED]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("protocol", [2, 5])
def test_every_element_type_is_read_as_torch_saved_it(read: Read, name: str, protocol: int) -> None:
    tensors = {"x": tensor_of(getattr(torch, name), 3, 5)}
    assert described(read(tensors, protocol=protocol)) == expected(tensors)


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("name", PLAIN)
def test_a_transposed_view_of_every_element_type_is_read_as_torch_saved_it(read: Read, name: str) -> None:
    tensors = {"x": tensor_of(getattr(torch, name), 3, 5).T}
    assert described(read(tensors)) == expected(tensors)


def test_a_float4_tensor_keeps_its_type_and_shape(read: Read) -> None:
    tensor = torch.zeros(3, 2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    (got,) = read({"x": tensor}).tensors
    assert (got.dtype.name, got.shape) == ("float4_e2m1fn_x2", tuple(tensor.shape))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
@pytest.mark.parametrize("name", ["qint8", "quint8", "qint32"])
def test_a_quantised_tensor_is_read_as_torch_saved_it(read: Read, name: str) -> None:
    tensor = torch.quantize_per_tensor(torch.tensor([[0.1, -0.3], [0.5, 2.0]]), 0.1, 0, getattr(torch, name))
    contents = read({"x": tensor})
    (got,) = contents.tensors
    assert (got.dtype.name, got.shape, stored_bits(contents, got)) == (name, (2, 2), bits(tensor.int_repr()))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
def test_a_tensor_quantised_by_channel_is_read_as_torch_saved_it(read: Read) -> None:
    scales, zeros = torch.tensor([0.1, 0.2]), torch.zeros(2, dtype=torch.long)
    tensor = torch.quantize_per_channel(torch.tensor([[0.1, -0.3], [0.5, 2.0]]), scales, zeros, 0, torch.qint8)
    contents = read({"x": tensor})
    assert stored_bits(contents, contents.tensors[0]) == bits(tensor.int_repr())


# Layouts and kinds of tensors

BASE = torch.arange(24.0).reshape(2, 3, 4)
VIEWS = {
    "transposed": BASE.transpose(0, 2),
    "permuted": BASE.permute(1, 2, 0),
    "sliced": BASE[:, 1:, ::2],
    "expanded": torch.arange(3.0).expand(4, 3),
    "expanded scalar": torch.tensor(2.0).expand(2, 2),
    "overlapping": torch.arange(6.0).as_strided((4, 3), (1, 1)),
    "scalar": torch.tensor(3.5),
    "scalar inside": BASE[1, 2, 3],
    "empty": torch.empty(0),
    "empty matrix": torch.empty(3, 0, 2),
    "channels last": torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
    "conjugated twice": torch.tensor([1 + 2j]).conj().conj(),
    "parameter": nn.Parameter(torch.arange(3.0)),
    "frozen parameter": nn.Parameter(torch.arange(3.0), requires_grad=False),
    "buffer": nn.Buffer(torch.arange(3.0)),
}


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_view_of_any_layout_is_read_as_torch_saved_it(read: Read, kind: str, protocol: int) -> None:
    tensors = {"x": VIEWS[kind]}
    assert described(read(tensors, protocol=protocol)) == expected(tensors)


def test_a_bare_tensor_is_read_as_torch_saved_it(read: Read) -> None:
    tensor = torch.arange(3.0)
    assert described(read(tensor)) == expected({"(tensor)": tensor})


def test_a_parameter_with_attributes_is_read_as_torch_saved_it(read: Read) -> None:
    parameter = nn.Parameter(torch.arange(3.0))
    parameter.tag = "sequence parallel"
    assert described(read({"p": parameter})) == expected({"p": parameter})


def test_tied_weights_share_the_bytes_of_their_storage(read: Read) -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
    model["head"].weight = model["embedding"].weight
    first, second = read(model.state_dict()).tensors
    assert first.extent == second.extent


def test_two_views_of_a_storage_share_its_bytes(read: Read) -> None:
    views = {"a": BASE[0], "b": BASE[1]}
    contents = read(views)
    assert (len({t.extent for t in contents.tensors}), described(contents)) == (1, expected(views))


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_sparse_coo_tensor_is_read_as_its_parts(read: Read, protocol: int) -> None:
    sparse = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse()
    parts = {"x.indices": sparse.indices(), "x.values": sparse.values()}
    assert described(read({"x": sparse}, protocol=protocol)) == expected(parts)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
def test_a_sparse_coo_tensor_that_is_not_coalesced_is_read_as_its_parts(read: Read) -> None:
    sparse = torch.sparse_coo_tensor([[0, 0], [1, 1]], [1.0, 2.0], (2, 2))
    parts = {"x.indices": sparse._indices(), "x.values": sparse._values()}
    assert described(read({"x": sparse})) == expected(parts)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks are implicitly disabled:UserWarning")
@pytest.mark.parametrize("protocol", [2, 5])
def test_a_sparse_csr_tensor_is_read_as_its_parts(read: Read, protocol: int) -> None:
    sparse = torch.tensor([[0.0, 2.0], [3.0, 0.0]]).to_sparse_csr()
    parts = {
        "x.compressed_indices": sparse.crow_indices(),
        "x.plain_indices": sparse.col_indices(),
        "x.values": sparse.values(),
    }
    assert described(read({"x": sparse}, protocol=protocol)) == expected(parts)


@pytest.mark.parametrize("protocol", [2, 5])
def test_the_elements_of_a_nested_tensor_are_read(read: Read, protocol: int) -> None:
    parts = [torch.arange(2.0), torch.arange(3.0)]
    contents = read({"x": torch.nested.nested_tensor(parts)}, protocol=protocol)
    assert described(contents)["x"][-1] == bits(torch.cat(parts))


def test_the_elements_of_a_jagged_tensor_are_found(read: Read) -> None:
    parts = [torch.arange(2.0), torch.arange(3.0)]
    contents = read({"x": torch.nested.nested_tensor(parts, layout=torch.jagged)})
    assert bits(torch.cat(parts)) in [stored_bits(contents, tensor) for tensor in contents.tensors]


def test_a_meta_tensor_is_absent_and_keeps_its_shape(read: Read) -> None:
    (got,) = read({"x": torch.empty(3, 4, device="meta")}).tensors
    assert (got.shape, got.strides, "meta" in got.absent) == ((3, 4), (4, 1), True)


@pytest.mark.parametrize("protocol", [2, 5])
def test_an_untyped_storage_is_read_as_bytes(read: Read, protocol: int) -> None:
    storage = torch.arange(3.0).untyped_storage()
    as_bytes = torch.empty(0, dtype=torch.uint8).set_(storage)
    assert described(read({"s": storage}, protocol=protocol)) == expected({"s": as_bytes})


@pytest.mark.parametrize("protocol", [2, 5])
def test_a_typed_storage_is_read_as_a_vector(read: Read, protocol: int) -> None:
    tensor = torch.arange(3.0)
    assert described(read({"s": tensor.storage()}, protocol=protocol)) == expected({"s": tensor})


# numpy

ARRAYS = {
    "vector": np.arange(5.0),
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "Fortran order": np.asfortranarray(np.arange(6, dtype=np.float16).reshape(2, 3)),
    "strided": np.arange(10)[::3],
    "no dimensions": np.array(1.5),
    "empty": np.empty((0, 3)),
    "bool": np.array([True, False]),
    "uint16": np.arange(3, dtype=np.uint16),
    "complex": np.array([1 + 2j]),
    "big-endian": np.arange(3, dtype=">f8"),
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_numpy_array_is_read_as_numpy_has_it(read: Read, kind: str, protocol: int) -> None:
    array = ARRAYS[kind]
    contents = read({"x": array}, protocol=protocol)
    (got,) = contents.tensors
    native = array.astype(array.dtype.newbyteorder("="))
    assert (got.dtype.name, got.shape, stored_bits(contents, got)) == (
        native.dtype.name, array.shape, native.tobytes(),
    )  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "number", [np.float64(1.5), np.float32(2.5), np.float16(0.5), np.int64(-7), np.uint8(9), np.bool_(True)]
)
def test_a_numpy_number_is_kept_as_a_number(read: Read, number: np.generic, protocol: int) -> None:
    (scalar,) = read({"best": number}, protocol=protocol).scalars
    assert (scalar.path, scalar.value) == (("best",), number.item())


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [
        np.array(["cat", "dog"]), np.array([b"x"]), np.array(["2020-01-01"], dtype="datetime64[D]"),
        np.array([1, "x"], dtype=object),
    ],
    ids=["texts", "bytes", "dates", "objects"],
)  # fmt: skip
def test_an_array_that_holds_no_numbers_is_no_tensor(read: Read, array: np.ndarray, protocol: int) -> None:
    assert read({"classes": array, "x": torch.ones(1)}, protocol=protocol).tensors[1:] == ()


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    "array",
    [np.zeros(2, dtype=[("loss", "f4")]), np.full(2, np.nan, dtype=np.longdouble)],
    ids=["structured", "long double"],
)
def test_an_array_of_numbers_that_cannot_be_read_is_not_passed_over(
    read: Read, array: np.ndarray, protocol: int
) -> None:
    tensors = read({"history": array}, protocol=protocol).tensors
    assert [bool(tensor.absent) for tensor in tensors] == [True]


def test_the_random_state_of_numpy_is_read(read: Read) -> None:
    state = np.random.RandomState(3).get_state()
    contents = read({"numpy_rng": state})
    assert [stored_bits(contents, t) for t in contents.tensors] == [state[1].tobytes()]


# Byte order


def swapped(files: Files, width: int) -> Files:
    swap = {n: np.frombuffer(d, f"u{width}").byteswap().tobytes() for n, d in files.items() if n.startswith("data/")}
    return files | swap | {"byteorder": b"big"}


@pytest.mark.parametrize("name", [n for n in PLAIN if n in ("float32", "float16", "bfloat16", "float64", "int64")])
def test_a_big_endian_file_is_read_as_torch_reads_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "big.pt"
    dtype = getattr(torch, name)
    torch.save({"x": tensor_of(dtype, 3, 4), "y": tensor_of(dtype, 2, 2).T}, path)
    rewrite(path, lambda files: swapped(files, dtype.itemsize))
    contents = read_contents(path)
    assert described(contents) == expected(torch.load(path))


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental:UserWarning")
@pytest.mark.parametrize("dtype", [d for d in FLOATING if d.kind is Kind.COMPLEX], ids=lambda d: d.name)
def test_a_complex_tensor_of_a_big_endian_file_is_read(read: Read, dtype: Any) -> None:
    tensors = {"x": tensor_of(getattr(torch, dtype.name), 3, 4)}
    assert described(read(tensors, edit=lambda files: swapped(files, dtype.itemsize // 2))) == expected(tensors)


def test_a_numpy_array_in_a_big_endian_file_keeps_its_own_order(read: Read) -> None:
    array = np.arange(3, dtype="<f4")
    contents = read({"x": array}, edit=lambda files: files | {"byteorder": b"big"})
    assert stored_bits(contents, contents.tensors[0]) == array.tobytes()


def test_a_file_without_a_byte_order_is_little_endian(read: Read) -> None:
    def drop(files: Files) -> Files:
        return {name: data for name, data in files.items() if name != "byteorder"}

    tensors = {"x": torch.arange(3.0)}
    assert described(read(tensors, edit=drop)) == expected(tensors)


# Records


def test_every_record_covers_the_bytes_of_a_member(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(training_checkpoint(), path)
    contents = read_contents(path)
    with zipfile.ZipFile(path) as archive:
        members = [archive.read(info) for info in archive.infolist() if info.file_size]
    assert [contents.files[0].read(r.extent.start, r.extent.nbytes) for r in contents.records] == members


def test_every_record_has_the_checksum_of_its_member(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(training_checkpoint(), path)
    with zipfile.ZipFile(path) as archive:
        checksums = [info.CRC for info in archive.infolist() if info.file_size]
    assert [record.crc for record in read_contents(path).records] == checksums


def test_a_file_without_checksums_is_read_as_torch_saved_it(read: Read) -> None:
    tensors = {"x": torch.arange(3.0)}
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        contents = read(tensors)
    finally:
        torch.serialization.set_crc32_options(before)
    assert described(contents) == expected(tensors)


def test_the_file_says_its_format(read: Read) -> None:
    assert read({}).format == "torch zip"


def test_an_empty_checkpoint_has_no_tensors(read: Read) -> None:
    assert read({}).tensors == ()


# Damaged files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    stream = io.BytesIO()
    torch.save({"model": nn.Linear(4, 4).state_dict(), "epoch": 1}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("part", range(40))
def test_a_file_that_is_cut_off_is_a_file_error(saved: bytes, tmp_path: Path, part: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(saved[: 4 + (len(saved) - 4) * part // 40])
    with pytest.raises(FileError, match="cut off"):
        read_contents(path)


@pytest.mark.parametrize("missing", range(1, 30))
def test_a_file_that_lacks_its_last_bytes_is_a_file_error(saved: bytes, tmp_path: Path, missing: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(saved[:-missing])
    with pytest.raises(FileError, match="cut off") as caught:
        read_contents(path)
    assert caught.value.code is Code.TRUNCATED


def test_a_tensor_whose_storage_is_missing_is_absent(read: Read) -> None:
    def drop(files: Files) -> Files:
        return {name: data for name, data in files.items() if name != "data/0"}

    (got,) = read({"x": torch.ones(3)}, edit=drop).tensors
    assert "data/0 is not in the archive" in got.absent


def test_a_storage_that_is_too_short_is_a_misfit(read: Read) -> None:
    (got,) = read({"x": torch.ones(3)}, edit=lambda files: files | {"data/0": b"\0" * 8}).tensors
    assert "needs 12 bytes of a storage that has 8" in got.misfit()


def test_a_tensor_whose_storage_is_deflated_is_inflated(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.arange(300.0), "y": torch.arange(300.0)[::3]}, path)
    rewrite(path, lambda files: files, zipfile.ZIP_DEFLATED)
    contents = read_contents(path)
    for tensor, expected in zip(contents.tensors, (torch.arange(300.0), torch.arange(300.0)[::3]), strict=True):
        assert tensor.packed.endswith(f"data/{contents.tensors.index(tensor)}")
        assert tensor.raw(contents.files).tobytes() == expected.numpy().tobytes()


def test_a_record_compressed_by_another_method_is_absent(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"x": torch.ones(300)}, path)
    rewrite(path, lambda files: files, zipfile.ZIP_LZMA)
    with pytest.raises(FileError, match="compressed by method 14"):
        read_contents(path)


@pytest.mark.parametrize(
    ("at", "width", "value"),
    [(12, 4, 2**32 - 2), (16, 4, 2**32 - 2), (10, 2, 2**16 - 2), (16, 4, 0), (12, 4, 2**32 - 1), (10, 2, 2**16 - 1)],
)  # fmt: skip
def test_a_directory_that_claims_nonsense_is_a_file_error(tmp_path: Path, at: int, width: int, value: int) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    data = bytearray(stream.getvalue())
    end = data.rfind(b"PK\x05\x06")
    data[end + at : end + at + width] = value.to_bytes(width, "little")
    path = tmp_path / "wrong.pt"
    path.write_bytes(data)
    with pytest.raises(FileError, match="contradicts itself"):
        read_contents(path)


def test_a_member_that_claims_more_bytes_than_the_file_has_is_a_file_error(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, 2))
    data = bytearray(stream.getvalue())
    entry = data.rfind(b"PK\x01\x02")
    data[entry + 20 : entry + 28] = (1_000_000).to_bytes(4, "little") * 2
    path = tmp_path / "wrong.pt"
    path.write_bytes(data)
    with pytest.raises(FileError, match="claims 1,000,000 bytes") as caught:
        read_contents(path)
    assert caught.value.code is Code.OUT_OF_BOUNDS


def test_a_zip_that_is_no_checkpoint_is_a_file_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileError, match=r"none of them is a data\.pkl") as caught:
        read_contents(path)
    assert caught.value.code is Code.NOT_A_CHECKPOINT


def test_a_pickle_that_is_cut_off_inside_a_whole_archive_is_a_file_error(read: Read) -> None:
    with pytest.raises(FileError, match="malformed"):
        read({"x": torch.ones(3)}, edit=lambda files: files | {"data.pkl": files["data.pkl"][:-5]})


@quick
@given(data=st.data())
def test_a_file_with_random_bytes_in_it_is_read_or_a_file_error(
    saved: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    path.unlink(missing_ok=True)
    path.write_bytes(damaged)
    try:
        contents = read_contents(path)
    except FileError:
        return
    for tensor in contents.tensors:
        assert tensor.absent or tensor.misfit() or tensor.raw(contents.files).size == tensor.numel


class _Storage:
    """Pickles as a reference to a float storage of so many elements."""

    def __init__(self, numel: int) -> None:
        self.numel = numel


class _Rebuilt:
    """Pickles as a call of torch's rebuilding function with any arguments."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __reduce__(self) -> tuple[object, ...]:
        return torch._utils._rebuild_tensor_v2, self.args


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.FloatStorage, "0", "cpu", obj.numel) if isinstance(obj, _Storage) else None


def hand_made(path: Path, offset: object, shape: object, strides: object) -> StoredTensor:
    stream = io.BytesIO()
    _Pickler(stream, 2).dump({"x": _Rebuilt(_Storage(6), offset, shape, strides, False, OrderedDict())})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", stream.getvalue())
        archive.writestr("a/data/0", np.arange(6, dtype=np.float32).tobytes())
    (tensor,) = read_contents(path).tensors
    return tensor


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (6, (1,), (1,)),
        (0, (2, 3), (4, 1)),
        (0, (2**40,), (1,)),
        (2**70, (1,), (1,)),
        (0, (2**40, 2**40), (0, 1)),
        (0, (2, 2**70), (1, 0)),
    ],
)
def test_a_tensor_that_does_not_fit_its_storage_is_a_misfit(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    assert hand_made(tmp_path / "a.pt", offset, shape, strides).misfit() != ""


def test_a_tensor_of_too_many_overlapping_elements_is_a_misfit() -> None:
    tensor = StoredTensor(
        container="", name="x", dtype=DTYPES["float32"], shape=(2,) * 10, strides=(1,) * 10,
        extent=Extent(start=0, nbytes=44),
    )  # fmt: skip
    assert "1,024 overlapping elements lie in 11 places" in tensor.misfit()


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(-1, (1,), (1,)), (0, (-1,), (1,)), (0, (1,), (-1,)), (0, (1, 1), (1,)), ("0", (1,), (1,)), (0, None, (1,))],
)
def test_a_tensor_described_by_nonsense_is_absent(
    tmp_path: Path, offset: object, shape: object, strides: object
) -> None:
    assert "arguments that it does not take" in hand_made(tmp_path / "a.pt", offset, shape, strides).absent


huge = st.integers(0, 7) | st.sampled_from([2**31, 2**61, 2**63, 2**70])


@quick
@given(st.lists(st.tuples(huge, huge), max_size=4), huge)
def test_a_tensor_of_any_shape_is_a_misfit_or_can_be_looked_at(sides: list[tuple[int, int]], offset: int) -> None:
    shape, strides = tuple(n for n, _ in sides), tuple(s for _, s in sides)
    tensor = StoredTensor(
        container="", name="x", dtype=DTYPES["float32"], shape=shape, strides=strides, offset=offset,
        inline=bytes(24),
    )  # fmt: skip
    assert tensor.misfit() or tensor.raw(()).shape == (shape if tensor.numel else (0,))


def test_a_stride_of_nonsense_on_an_axis_of_one_is_a_misfit_or_harmless() -> None:
    tensor = StoredTensor(
        container="", name="x", dtype=DTYPES["float32"], shape=(1, 2), strides=(2**70, 1),
        inline=bytes(24),
    )  # fmt: skip
    assert tensor.misfit() or tensor.raw(()).shape == (1, 2)


@pytest.mark.parametrize("shape", [(2**20_000,), (2**62,) * 300, (0, 2**20_000)], ids=["side", "product", "empty"])
def test_a_tensor_of_a_size_too_long_to_print_is_a_misfit_or_harmless(shape: tuple[int, ...]) -> None:
    tensor = StoredTensor(
        container="", name="x", dtype=DTYPES["float32"], shape=shape, strides=(1,) * len(shape),
        inline=bytes(24),
    )  # fmt: skip
    assert tensor.misfit() or tensor.raw(()).size == 0


def test_an_offset_too_long_to_print_is_no_crash(tmp_path: Path) -> None:
    tensor = hand_made(tmp_path / "a.pt", 2**20_000, (1,), (1,))
    assert tensor.absent or tensor.misfit()


def test_a_key_that_is_a_number_too_long_to_print_is_no_crash(read: Read) -> None:
    assert len(read({2**20_000: torch.ones(1), "x": torch.ones(1)}).tensors) == 2


def test_a_parameter_key_too_long_to_print_is_no_crash(read: Read) -> None:
    state = {"state": {}, "param_groups": [{"params": [0, 2**20_000]}]}
    assert ("0", None) in read(state).optimizers[""]


def test_every_number_that_is_kept_can_be_printed(read: Read) -> None:
    scalars = read({"seed": 2**20_000, "epoch": 3}).scalars
    assert "3" in [str(scalar.value) for scalar in scalars]


def test_more_dimensions_than_torch_supports_are_a_misfit() -> None:
    tensor = StoredTensor(
        container="", name="x", dtype=DTYPES["float32"], shape=(1,) * 65, strides=(1,) * 65,
        inline=bytes(24),
    )  # fmt: skip
    assert "65 dimensions" in tensor.misfit()


class _Command:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def test_what_a_stored_pickle_wanted_has_its_place_in_the_file(read: Read) -> None:
    contents = read([_Command()])
    (wanted,) = [each for each in contents.imports if each.name == "system"]
    assert contents.files[0].read(wanted.place, 99).startswith(f"c{os.system.__module__}\nsystem\n".encode())


def test_what_a_compressed_pickle_wanted_has_its_place_in_the_pickle_only(tmp_path: Path) -> None:
    contents = read_contents(bad_files.rezipped(tmp_path / "x.pth"))
    assert {wanted.place for wanted in contents.imports} == {None}
