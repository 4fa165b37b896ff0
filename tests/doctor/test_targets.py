"""Where the files of a repair go, and what must not be replaced."""

from pathlib import Path

import pytest
import torch

from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.targets import fixed_name, original_name
from torchmend.facts.errors import UserError


def save(path: Path) -> Path:
    torch.save({"b.running_mean": torch.tensor([0.5, float("nan"), 0.7]), "b.running_var": torch.ones(3)}, path)
    return path


@pytest.mark.parametrize(
    ("path", "original"),
    [("run_FIXED.pth", "run_ORIGINAL.pth"), ("run.pth", "run_ORIGINAL.pth"), ("a/mended.pt", "a/mended_ORIGINAL.pt")],
)
def test_the_original_is_named_after_the_repaired_file_without_its_mark(path, original):
    assert original_name(Path(path)) == Path(original)


def test_the_repaired_file_is_named_after_its_source():
    assert fixed_name(Path("a/run.pth")) == Path("a/run_FIXED.pth")


def test_a_donor_is_never_the_output(tmp_path):
    path, donor = save(tmp_path / "run.pth"), save(tmp_path / "donor.pth")
    with pytest.raises(UserError, match=r"donor\.pth would be replaced, and it is read as well"):
        fix_file(path, FixOptions(output=donor, donors=(donor,), force=True))


@pytest.mark.parametrize("name", ["mended.repair.bin", "mended.repair.json"])
def test_the_source_is_never_replaced_by_the_record_of_its_own_repair(tmp_path, name):
    path = save(tmp_path / name)
    before = path.read_bytes()
    with pytest.raises(UserError, match="would be replaced"):
        fix_file(path, FixOptions(output=tmp_path / "mended.pth", force=True))
    assert path.read_bytes() == before


def test_the_record_of_another_repaired_file_is_not_replaced_without_force(tmp_path):
    path = save(tmp_path / "run.pth")
    first = fix_file(path, FixOptions(output=tmp_path / "x.pth"))
    before = first.record.read_bytes()
    with pytest.raises(UserError, match=r"x\.repair\.json belongs to x\.pth"):
        fix_file(path, FixOptions(output=tmp_path / "x.pt"))
    assert first.record.read_bytes() == before
    assert fix_file(path, FixOptions(output=tmp_path / "x.pt", force=True)).succeeded


def test_a_record_whose_file_has_gone_is_in_nobodys_way(tmp_path):
    path = save(tmp_path / "run.pth")
    fix_file(path, FixOptions(output=tmp_path / "x.pth")).output.unlink()
    assert fix_file(path, FixOptions(output=tmp_path / "x.pt")).succeeded
