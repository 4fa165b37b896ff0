"""TorchScript archives: their tensors have the names of the state_dict of what `torch.jit.load` gives."""

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.formats.contents import Contents
from torchmend.formats.registry import read_contents

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")

Read = Callable[[Path], Contents]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False))
        self.tied = self.head[2].weight
        self.register_buffer("table", torch.arange(3.0))
        self.scale = 2.5
        self.extra = [torch.ones(2), torch.ones(3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.conv(x)).mean((2, 3))) * self.scale + self.extra[0].sum() + self.table.sum()


@pytest.fixture
def read() -> Iterator[Read]:
    opened: list[Contents] = []

    def read_and_keep(path: Path) -> Contents:
        opened.append(read_contents(path))
        return opened[-1]

    yield read_and_keep
    for contents in opened:
        contents.close()


def trained() -> Net:
    torch.manual_seed(0)
    model = Net()
    model(torch.randn(8, 3, 5, 5))
    return model.eval()


def scripted(path: Path, model: nn.Module | None = None) -> Path:
    torch.jit.save(torch.jit.script(model or trained()), path)
    return path


def traced(path: Path) -> Path:
    torch.jit.save(torch.jit.trace(trained(), torch.ones(1, 3, 5, 5)), path)
    return path


def frozen(path: Path) -> Path:
    torch.jit.save(torch.jit.freeze(torch.jit.script(trained())), path)
    return path


def loaded(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(path)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def named(contents: Contents) -> dict[str, bytes]:
    assert not any(t.absent or t.misfit() for t in contents.tensors)
    return {t.name: t.raw(contents.files).tobytes() for t in contents.tensors if t.container == ""}


@pytest.mark.parametrize("make", [scripted, traced])
def test_tensors_have_the_names_and_values_of_the_state_dict(read: Read, tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "net.pt")
    contents = read(path)
    state = {name: bits(tensor) for name, tensor in loaded(path).state_dict().items()}
    assert contents.format == "TorchScript"
    assert {name: data for name, data in named(contents).items() if not name.startswith("extra")} == state


def test_tensors_in_a_list_are_numbered(read: Read, tmp_path: Path) -> None:
    found = named(read(scripted(tmp_path / "net.pt")))
    assert (found["extra.0"], found["extra.1"]) == (bits(torch.ones(2)), bits(torch.ones(3)))


def test_numbers_among_the_attributes_are_scalars(read: Read, tmp_path: Path) -> None:
    scalars = {scalar.dotted: scalar.value for scalar in read(scripted(tmp_path / "net.pt")).scalars}
    assert (scalars["scale"], scalars["training"]) == (2.5, False)


def test_constants_have_the_names_that_the_code_uses(read: Read, tmp_path: Path) -> None:
    path = frozen(tmp_path / "net.pt")
    contents = read(path)
    code, constants = loaded(path).code_with_constants
    assert {f"{t.container}.{t.name}" for t in contents.tensors} == {f"CONSTANTS.{n}" for n in constants.const_mapping}
    assert all(f"CONSTANTS.{name}" in code for name in constants.const_mapping)
    for tensor in contents.tensors:
        assert tensor.raw(contents.files).tobytes() == bits(constants.const_mapping[tensor.name])


def test_nothing_of_a_torchscript_archive_is_odd(read: Read, tmp_path: Path) -> None:
    for make in (scripted, traced, frozen):
        assert read(make(tmp_path / f"{make.__name__}.pt")).oddities == ()


def test_a_healthy_archive_is_healthy(tmp_path: Path) -> None:
    for make in (scripted, traced, frozen):
        diagnosis = diagnose_file(make(tmp_path / f"{make.__name__}.pt"), verify_checksums=True)
        assert diagnosis.healthy
        assert not diagnosis.findings


def test_a_repaired_archive_runs_and_differs_only_where_planned(tmp_path: Path) -> None:
    model = trained()
    model.bn.running_mean[1] = float("inf")
    model.bn.running_var[2] = float("nan")
    path = scripted(tmp_path / "net.pt", model)
    outcome = fix_file(path)
    before, after = loaded(path).state_dict(), loaded(outcome.output)
    assert {name for name, t in after.state_dict().items() if bits(t) != bits(before[name])} == {
        "bn.running_mean", "bn.running_var",
    }  # fmt: skip
    assert after(torch.ones(1, 3, 5, 5)).isfinite().all()
    assert diagnose_file(outcome.output, verify_checksums=True).healthy


def test_a_damaged_constant_is_found_and_mended_from_a_donor(tmp_path: Path) -> None:
    donor = frozen(tmp_path / "donor.pt")
    place = donor.read_bytes().index(bits(trained().head[0].weight)) + 8
    path = tmp_path / "run.pt"
    path.write_bytes(donor.read_bytes())
    with path.open("r+b") as file:
        file.seek(place)
        file.write(torch.tensor(float("nan")).numpy().tobytes())
    assert [finding.ref.container for finding in diagnose_file(path).findings] == ["CONSTANTS"]
    outcome = fix_file(path, FixOptions(donors=(donor,)))
    weight = torch.jit.load(outcome.output).code_with_constants[1].const_mapping
    assert all(bits(weight[name]) == bits(t) for name, t in loaded(donor).code_with_constants[1].const_mapping.items())
