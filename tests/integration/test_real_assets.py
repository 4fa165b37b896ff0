"""Checkpoints that people really use, out of the wheels of their packages: none of them is worth a warning."""

from pathlib import Path

import pytest
import torch

from checkpoints import torchmend
from torchmend.formats.registry import read_contents

ASSETS = Path(__file__).parents[2] / ".cache" / "assets"
FILES = sorted(path for path in ASSETS.rglob("*") if path.suffix in (".pt", ".pth", ".jit", ".safetensors"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="make test-all fetches the checkpoints"),
]


def test_the_checkpoints_of_all_three_packages_are_there():
    assert {path.relative_to(ASSETS).parts[0] for path in FILES} == {"facenet_pytorch", "lpips", "silero_vad"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ASSETS)))
def test_a_real_checkpoint_exits_0_even_when_warnings_count(path):
    outcome = torchmend("diagnose", "--fail-on", "warning", "--verify-crc", path)
    assert outcome.rc == 0, outcome.stdout


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in (".pt", ".pth")], ids=lambda path: path.name)
def test_a_real_legacy_checkpoint_is_read_as_torch_loads_it(path):
    state = torch.load(path, map_location="cpu", weights_only=True)
    contents = read_contents(path)
    assert contents.format == "legacy torch stream"
    assert [tensor.name for tensor in contents.tensors] == list(state)
    assert all(t.raw(contents.files).tobytes() == state[t.name].numpy().tobytes() for t in contents.tensors)
    contents.close()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".jit"], ids=lambda path: path.name)
def test_a_real_torchscript_archive_has_the_names_of_its_state_dict(path):
    state = torch.jit.load(path, map_location="cpu").state_dict()
    contents = read_contents(path)
    found = {t.name: t for t in contents.tensors if t.container == ""}
    assert found.keys() >= state.keys()
    assert all(found[n].raw(contents.files).tobytes() == t.numpy().tobytes() for n, t in state.items())
    contents.close()
