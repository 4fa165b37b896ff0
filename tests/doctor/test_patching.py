"""A repaired file differs from its source in the planned elements and their checksums, and nowhere else."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.recording import read_undo
from torchmend.formats.contents import Contents

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def damaged_checkpoint(seed: int, dtype: torch.dtype, layout: str) -> dict[str, object]:
    """Make a checkpoint with damage in statistics and moments, in various layouts."""
    generator = torch.Generator().manual_seed(seed)
    channels = int(torch.randint(4, 20, (), generator=generator))

    def values(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).add(0.5).to(dtype)

    def hurt(tensor: torch.Tensor, bad: float) -> torch.Tensor:
        hit = torch.rand(tensor.shape, generator=generator) < 0.4
        return tensor.masked_fill_(hit, bad)

    weight = values(channels, 3, 3, 3)
    mean, var = hurt(values(channels), float("inf")), hurt(values(channels), -1.0)
    moment = hurt(values(channels, 27), float("nan"))
    if layout == "transposed":
        moment = hurt(values(27, channels), float("nan")).T
    elif layout == "strided":
        var = hurt(values(2 * channels), float("nan"))[::2]
        mean = hurt(values(channels + 3), float("-inf"))[3:]
    elif layout == "shared":
        pair = hurt(values(2 * channels), float("nan"))
        mean, var = pair[:channels], pair[channels:]
    return {
        "model": {"c.weight": weight, "b.running_mean": mean, "b.running_var": var, "c.loose": values(5)},
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": values(*moment.shape), "exp_avg_sq": moment}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
    }


def byte_mask(path: Path, names: set[str]) -> np.ndarray:
    """Return which bytes of a file belong to elements that are damaged, or to their zip records' checksums."""
    with FileSource(path) as source:
        mask = np.zeros(source.contents.nbytes, dtype=bool)
        for ref in source.refs:
            if ref.name in names:
                _mark_damaged(source, ref, mask)
        _mark_checksums(source.contents, mask)
        return mask


def _mark_damaged(source: FileSource, ref, mask: np.ndarray) -> None:
    stored = source.stored[ref]
    pairs = {"exp_avg": "exp_avg_sq"}
    judged = ref if ref.leaf not in pairs else next(r for r in source.refs if r.leaf == pairs[ref.leaf])
    values = source.vector(judged)
    bad = ~np.isfinite(values) | (values < 0)
    for flat in np.flatnonzero(bad):
        place = stored.offset + int(np.dot(np.unravel_index(flat, stored.shape), stored.strides))
        start = stored.extent.start + place * stored.dtype.itemsize
        mask[start : start + stored.dtype.itemsize] = True


def _mark_checksums(contents: Contents, mask: np.ndarray) -> None:
    for record in contents.records:
        for place in record.crc_at:
            mask[place : place + 4] = True


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(["plain", "transposed", "strided", "shared"]),
)
def test_only_damaged_elements_and_checksums_change(tmp_path, seed, dtype, layout):
    path, output = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(damaged_checkpoint(seed, dtype, layout), path)
    result = fix_file(path, FixOptions(output=output, force=True))
    if result.output is None:
        assert not result.before.damaged
        return
    before, after = (np.frombuffer(p.read_bytes(), np.uint8) for p in (path, output))
    assert before.shape == after.shape
    allowed = byte_mask(path, {"b.running_mean", "b.running_var", "state.0.exp_avg", "state.0.exp_avg_sq"})
    assert not np.any((before != after) & ~allowed)
    assert result.after is not None
    assert result.after.healthy
    assert zipfile.ZipFile(output).testzip() is None


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("layout", ["plain", "transposed", "strided", "shared"])
def test_torch_loads_a_repaired_file(tmp_path, mmap, layout):
    path = tmp_path / "in.pth"
    torch.save(damaged_checkpoint(1, torch.float32, layout), path)
    result = fix_file(path)
    loaded = torch.load(result.output, mmap=mmap, weights_only=True)
    assert all(tensor.isfinite().all() for tensor in loaded["model"].values())
    assert (loaded["model"]["b.running_var"] > 0).all()


def test_a_file_saved_without_checksums_keeps_zero_checksums(tmp_path):
    path = tmp_path / "in.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(damaged_checkpoint(2, torch.float32, "plain"), path)
    finally:
        torch.serialization.set_crc32_options(True)
    before = [info.CRC for info in zipfile.ZipFile(path).infolist()]
    output = fix_file(path).output
    assert [info.CRC for info in zipfile.ZipFile(output).infolist()] == before


def test_a_repair_does_not_hide_a_checksum_that_was_wrong_before(tmp_path):
    path = tmp_path / "in.pth"
    torch.save(damaged_checkpoint(3, torch.float32, "plain"), path)
    with FileSource(path) as source:
        ref = next(r for r in source.refs if r.leaf == "running_var")
        good = int(np.flatnonzero(source.vector(ref) > 0)[0])
        extent = source.stored[ref].extent
    raw = bytearray(path.read_bytes())
    raw[extent.start + 4 * good] ^= 1  # a flipped bit in a healthy element of the record that gets patched
    path.write_bytes(raw)
    assert zipfile.ZipFile(path).testzip() is not None
    assert zipfile.ZipFile(fix_file(path).output).testzip() is not None


def test_big_endian_elements_are_patched_in_their_own_order(tmp_path):
    path, swapped = tmp_path / "in.pth", tmp_path / "big.pth"
    state = {"b.running_mean": torch.tensor([1.0, float("nan"), 3.0, 2.0]), "b.running_var": torch.ones(4)}
    torch.save(state, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(swapped, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if "/data/" in name:
                data = np.frombuffer(data, ">u4").astype("<u4").tobytes()
            target.writestr(name, b"big" if name.endswith("byteorder") else data)
    output = fix_file(swapped).output
    loaded = torch.load(output)
    assert loaded["b.running_mean"].isfinite().all()
    assert loaded["b.running_mean"][[0, 2, 3]].tolist() == [1.0, 3.0, 2.0]
    assert loaded["b.running_var"].tolist() == [1.0] * 4


def test_complex_weights_are_taken_whole_from_a_donor(tmp_path):
    path, donor = tmp_path / "in.pth", tmp_path / "donor.pth"
    weight = torch.arange(6.0).reshape(2, 3) + 1j
    torch.save({"w.weight": weight}, donor)
    hurt = weight.clone()
    hurt[1, 1] = complex(float("nan"), 5.0)
    torch.save({"w.weight": hurt}, path)
    output = fix_file(path, FixOptions(donors=(donor,))).output
    assert torch.equal(torch.load(output)["w.weight"], weight)


def test_names_of_the_same_elements_are_patched_once_and_all_repaired(tmp_path):
    path = tmp_path / "in.pth"
    mean = torch.tensor([1.0, float("inf"), 2.0, 1.5])
    state = {
        "a.running_mean": mean,
        "a.running_var": torch.ones(4),
        "b.running_mean": mean,
        "b.running_var": torch.ones(4),
    }
    torch.save(state, path)
    result = fix_file(path)
    assert {edit.ref.name for edit in result.plan.edits} == {"a.running_mean", "b.running_mean"}
    loaded = torch.load(result.output)
    assert torch.equal(loaded["a.running_mean"], loaded["b.running_mean"])


def test_safetensors_files_are_patched_too(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tmp_path / "in.safetensors"
    save_file({"b.running_mean": torch.tensor([0.5, float("nan"), 0.7]), "b.running_var": torch.ones(3)}, path)
    output = fix_file(path).output
    assert output.name == "in_FIXED.safetensors"
    assert load_file(output)["b.running_mean"].isfinite().all()


def test_a_zip64_member_is_patched(tmp_path):
    path, wide = tmp_path / "in.pth", tmp_path / "wide.pth"
    torch.save({"b.running_mean": torch.tensor([0.5, float("nan"), 0.7]), "b.running_var": torch.ones(3)}, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(wide, "w") as target:
        for name in source.namelist():
            with target.open(name, "w", force_zip64=True) as member:
                member.write(source.read(name))
    output = fix_file(wide).output
    assert zipfile.ZipFile(output).testzip() is None
    assert torch.load(io.BytesIO(output.read_bytes()))["b.running_mean"].isfinite().all()


def test_a_number_beside_the_model_is_patched_and_its_checksum_mended(tmp_path):
    path = tmp_path / "in.pth"
    torch.save({"w.weight": torch.ones(3), "best_loss": float("nan"), "note": "kept"}, path)
    result = fix_file(path, FixOptions(metadata=True))
    before, after = path.read_bytes(), result.output.read_bytes()
    assert len(before) == len(after)
    assert sum(a != b for a, b in zip(before, after, strict=True)) <= 8 + 3 * 4
    assert zipfile.ZipFile(result.output).testzip() is None
    loaded = torch.load(result.output)
    assert (loaded["best_loss"], loaded["note"]) == (float("inf"), "kept")


def test_the_journal_knows_every_byte_that_changed(tmp_path):
    path = tmp_path / "in.pth"
    torch.save({**damaged_checkpoint(5, torch.float32, "strided"), "best_loss": float("nan")}, path)
    result = fix_file(path, FixOptions(metadata=True))
    before, after = (np.frombuffer(p.read_bytes(), np.uint8) for p in (path, result.output))
    covered = np.zeros(len(before), dtype=bool)
    for splice in read_undo(result.record).files[0].splices:
        covered[splice.offset : splice.end] = True
    assert (before != after).any()
    assert not ((before != after) & ~covered).any()


@pytest.mark.parametrize("gap", [1, 2, 3, 1000, 5000, 100_000])
def test_elements_near_and_far_are_written_and_those_between_are_kept(tmp_path, gap):
    path, donor = tmp_path / "in.pth", tmp_path / "donor.pth"
    truth = torch.arange(300_000, dtype=torch.float32)
    hurt = truth.clone()
    hurt[::gap] = float("nan")
    torch.save({"w.weight": hurt}, path)
    torch.save({"w.weight": truth + 0.5}, donor)
    loaded = torch.load(fix_file(path, FixOptions(donors=(donor,))).output)["w.weight"]
    expected = truth.clone()
    expected[::gap] += 0.5
    assert torch.equal(loaded, expected)


@pytest.mark.parametrize("shape", [(1 << 40,), (3, 1 << 38), (1 << 20, 3, 1 << 18)])
def test_an_expanded_tensor_is_repaired_once_however_large_it_claims_to_be(tmp_path, shape):
    small = torch.tensor([1.0, float("nan"), 2.0]) if 3 in shape else torch.tensor([float("nan")])
    moment = small.reshape([3 if n == 3 else 1 for n in shape]).expand(shape)
    state = {"state": {0: {"step": torch.tensor(3.0), "exp_avg_sq": moment}}, "param_groups": [{"params": [0]}]}
    torch.save({"optimizer": state}, tmp_path / "in.pth")
    loaded = torch.load(fix_file(tmp_path / "in.pth").output)["optimizer"]["state"][0]["exp_avg_sq"]
    assert loaded.shape == shape
    assert loaded.untyped_storage().tolist() == small.nan_to_num(0.0).untyped_storage().tolist()
