"""Checkpoints that people really use, out of the wheels of their packages: none of them is worth a warning."""

from pathlib import Path

import pytest
import torch

from checkpoints import torchmend
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.facts.codes import Code

ASSETS = Path(__file__).parents[2] / ".cache" / "assets"
FILES = sorted(path for path in ASSETS.rglob("*") if path.suffix in (".pt", ".pth", ".safetensors"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILES, reason="make test-all fetches the checkpoints"),
]


def test_the_checkpoints_of_all_three_packages_are_there():
    assert {path.relative_to(ASSETS).parts[0] for path in FILES} == {"facenet_pytorch", "lpips", "silero_vad"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ASSETS)))
def test_a_real_checkpoint_exits_0_even_when_warnings_count(path, tmp_path):
    outcome = torchmend("diagnose", "--fail-on", "warning", "--verify-crc", readable(path, tmp_path))
    assert outcome.rc == 0, outcome.stdout


def readable(path: Path, tmp_path: Path) -> Path:
    """Return the file itself, or for a legacy one the same tensors as torch saves them today."""
    findings = diagnose_file(path).findings
    if not any(f.code is Code.UNREADABLE and "legacy" in f.message for f in findings):
        return path
    torch.save(torch.load(path, map_location="cpu", weights_only=True), tmp_path / "converted.pth")
    return tmp_path / "converted.pth"
