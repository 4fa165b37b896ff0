"""Archives with compressed records: repaired by storing just the records that change, and undone bit for bit."""

import io
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.doctor.expanding import expand
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.undoing import unfix_file
from torchmend.facts.errors import UserError
from torchmend.formats.mapped import MappedFile
from torchmend.formats.zips import DEFLATED, STORED, read_members

NAN = float("nan")


def saved(state: object) -> dict[str, bytes]:
    stream = io.BytesIO()
    torch.save(state, stream)
    with zipfile.ZipFile(stream) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def packed(path: Path, files: dict[str, bytes], deflated: set[str] | None = None, *, streamed: bool = False) -> Path:
    """Write an archive with some records deflated; `streamed` puts sizes behind the records, as pipes do."""
    out = io.BytesIO()
    target = Unseekable(out) if streamed else out
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            small = deflated is None or name in deflated
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED if small else zipfile.ZIP_STORED)
    path.write_bytes(out.getvalue())
    return path


class Unseekable(io.RawIOBase):
    def __init__(self, target: io.BytesIO) -> None:
        self.target = target

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return self.target.write(data)


def damaged() -> dict[str, object]:
    return {
        "model": {
            "c.weight": torch.arange(40.0).reshape(8, 5),
            "b.running_mean": torch.tensor([0.5, NAN, 0.25, 0.75]),
            "b.running_var": torch.ones(4),
        },
        "best_loss": NAN,
    }


@pytest.mark.parametrize("streamed", [False, True])
def test_a_repair_stores_just_the_records_that_change(tmp_path, streamed):
    path = packed(tmp_path / "run.pth", saved(damaged()), streamed=streamed)
    output = fix_file(path).output
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(output) as after:
        changed = [i.filename for i in after.infolist() if i.compress_type == zipfile.ZIP_STORED]
        assert after.testzip() is None
        assert len(changed) == 1
        for name in before.namelist():
            assert (after.read(name) == before.read(name)) == (name not in changed)


@pytest.mark.parametrize("mmap", [False, True])
def test_torch_loads_the_repaired_archive(tmp_path, mmap):
    names = set(saved(damaged()))
    storage = {name for name in names if name.endswith("/data/1")}
    path = packed(tmp_path / "run.pth", saved(damaged()), storage)
    loaded = torch.load(fix_file(path).output, mmap=mmap)["model"]
    assert loaded["b.running_mean"].isfinite().all()
    assert torch.equal(loaded["c.weight"], damaged()["model"]["c.weight"])


def test_a_number_inside_a_deflated_pickle_is_repaired(tmp_path):
    path = packed(tmp_path / "run.pth", saved(damaged()))
    loaded = torch.load(fix_file(path, FixOptions(metadata=True)).output)
    assert loaded["best_loss"] == float("inf")


@quick
@given(chosen=st.sets(st.integers(0, 7)), streamed=st.booleans())
def test_undo_restores_the_archive_bit_for_bit(tmp_path_factory, chosen, streamed):
    folder = tmp_path_factory.mktemp("undo")
    files = saved(damaged())
    names = {name for at, name in enumerate(files) if at in chosen}
    path = packed(folder / "run.pth", files, names, streamed=streamed)
    output = fix_file(path, FixOptions(metadata=True)).output
    assert unfix_file(output).output.read_bytes() == path.read_bytes()


def test_a_record_that_inflates_beyond_the_limit_is_said_to_be_unscanned(tmp_path):
    zeros = torch.zeros(40 << 20)
    path = packed(tmp_path / "run.pth", saved({"a.weight": zeros, "b.running_mean": torch.ones(3)}))
    result = fix_file(path)
    assert not result.before.checked
    assert "not scanned: this file would inflate to more than 134,217,728 bytes" in result.before.findings[0].message


def test_a_record_whose_descriptor_does_not_fit_is_refused_and_leaves_nothing(tmp_path):
    path = packed(tmp_path / "run.pth", saved(damaged()), streamed=True)
    data = bytearray(path.read_bytes())
    with MappedFile(path) as file:
        member = next(each for each in read_members(file) if each.name.endswith("/data/1"))
    data[member.start + member.nbytes + 8] ^= 1  # a size in what stands behind the record
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"what stands behind the compressed record .* does not fit it"):
        fix_file(path)
    assert [each.name for each in tmp_path.iterdir()] == ["run.pth"]


def test_members_that_stay_are_copied_as_they_are(tmp_path):
    files = {"r/a": b"a" * 1000, "r/b": b"b" * 1000, "r/c": b"c" * 1000}
    path = packed(tmp_path / "x.zip", files)
    with MappedFile(path) as file, (tmp_path / "y.zip").open("w+b") as target:
        splices = expand(file, {"r/b"}, target)
    with MappedFile(tmp_path / "y.zip") as file:
        methods = {member.name: member.method for member in read_members(file)}
    assert methods == {"r/a": DEFLATED, "r/b": STORED, "r/c": DEFLATED}
    assert len(splices) == 2
    with zipfile.ZipFile(tmp_path / "y.zip") as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
