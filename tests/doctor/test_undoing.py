"""Undoing a repair gives the original bit for bit, or says why it cannot."""

import hashlib
import json
import tempfile
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from strategies import quick
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.siblings import record_of, sidecar_of
from torchmend.doctor.undoing import unfix_file
from torchmend.facts.errors import RepairError, UserError

NAN = float("nan")
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    mean = torch.tensor([0.1, float("inf"), 0.3, 0.2])
    torch.save({"model": {"b.running_mean": mean, "b.running_var": torch.ones(4)}}, path)
    return path


@pytest.fixture
def repaired(broken) -> Path:
    return fix_file(broken).output


# The original comes back


def scattered(seed: int, dtype: torch.dtype, bad: float, share: float) -> dict[str, torch.Tensor]:
    """Make a model with a part of every tensor damaged, and layouts of all kinds."""
    generator = torch.Generator().manual_seed(seed)

    def values(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator).add(0.5).to(dtype)

    def hurt(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.masked_fill(torch.rand(tensor.shape, generator=generator) < share, bad)

    return {
        "c.weight": hurt(values(9, 40)),
        "t.weight": hurt(values(40, 9)).T,
        "b.running_mean": hurt(values(9)),
        "b.running_var": hurt(values(20))[::2],
    }


@quick
@given(
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
    bad=st.sampled_from([NAN, float("inf"), float("-inf")]),
    share=st.sampled_from([0.01, 0.3, 1.0]),
    form=st.sampled_from(["zip", "safetensors"]),
    in_place=st.booleans(),
)
def test_undo_restores_the_original_bit_for_bit(seed, dtype, bad, share, form, in_place):
    with tempfile.TemporaryDirectory() as folder:
        path, donor = Path(folder, f"run.{form}"), Path(folder, f"donor.{form}")
        for target, portion in ((path, share), (donor, 0.0)):
            state = {name: tensor.clone() for name, tensor in scattered(seed, dtype, bad, portion).items()}
            if form == "zip":
                torch.save({"model": scattered(seed, dtype, bad, portion)}, target)
            else:
                save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
        original = path.read_bytes()
        fixed = fix_file(path, FixOptions(donors=(donor,), in_place=in_place)).output
        if fixed is None:
            return
        assert fixed.read_bytes() != original
        assert unfix_file(fixed, in_place=in_place).output.read_bytes() == original


def test_undo_restores_numbers_beside_the_model_too(tmp_path):
    path = tmp_path / "run.pth"
    torch.save({"model": {"w.weight": torch.ones(3)}, "best_loss": NAN}, path)
    result = fix_file(path, FixOptions(metadata=True))
    assert [str(edit.scalar.dotted) for edit in result.plan.scalars] == ["best_loss"]
    assert not result.plan.edits
    assert result.succeeded
    assert torch.load(result.output)["best_loss"] == float("inf")
    assert unfix_file(result.output).output.read_bytes() == path.read_bytes()


def test_undo_restores_an_optimizer_that_was_reset(tmp_path):
    path = tmp_path / "run.pth"
    state = {"step": torch.tensor(3.0), "exp_avg": torch.ones(50, 50), "exp_avg_sq": torch.ones(50, 50)}
    torch.save({"opt": {"state": {0: state}, "param_groups": [{"lr": 0.1, "params": [0]}]}}, path)
    fixed = fix_file(path, FixOptions(reset_optimizer=True)).output
    assert not torch.load(fixed)["opt"]["state"][0]["exp_avg"].any()
    assert unfix_file(fixed).output.read_bytes() == path.read_bytes()


def test_undo_of_a_donor_repair_needs_little_memory(tmp_path):
    path, donor = tmp_path / "run.pth", tmp_path / "donor.pth"
    weight = torch.full((32 << 20,), NAN)
    torch.save({"w.weight": weight}, path)
    torch.save({"w.weight": weight.zero_()}, donor)
    tracemalloc.start()
    try:
        fixed = fix_file(path, FixOptions(donors=(donor,))).output
        output = unfix_file(fixed).output
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sidecar_of(fixed).stat().st_size > 128 << 20
    assert digest(output) == digest(path)
    assert peak < 48 << 20


# Where it goes


def test_the_original_stands_beside_the_repaired_file_under_its_own_name(repaired):
    before = digest(repaired)
    result = unfix_file(repaired)
    assert result.output.name == "run_ORIGINAL.pth"
    assert result.restored == sidecar_of(repaired).stat().st_size
    assert result.sha256 == digest(result.output)
    assert digest(repaired) == before


def test_the_repair_can_be_undone_again_later(repaired, tmp_path):
    unfix_file(repaired)
    assert unfix_file(repaired, output=tmp_path / "again.pth").sha256 == digest(tmp_path / "again.pth")


def test_in_place_puts_the_original_back_and_uses_up_the_record(broken, tmp_path):
    before = digest(broken)
    fixed = fix_file(broken, FixOptions(in_place=True)).output
    result = unfix_file(fixed, in_place=True)
    assert digest(broken) == before
    assert {each.name for each in result.removed} == {"run.repair.json", "run.repair.bin"}
    assert names(tmp_path) == {"run.pth", "run.pth.bak"}


def test_an_undo_in_place_that_was_stopped_before_tidying_up_can_be_finished(broken, tmp_path):
    original = broken.read_bytes()
    fix_file(broken, FixOptions(in_place=True))
    broken.write_bytes(original)
    assert unfix_file(broken, in_place=True).removed
    assert names(tmp_path) == {"run.pth", "run.pth.bak"}


def test_the_original_has_the_permissions_of_the_repaired_file(repaired):
    repaired.chmod(0o640)
    assert unfix_file(repaired).output.stat().st_mode & 0o777 == 0o640


# What is refused


def refused(repaired: Path, match: str, **options: object) -> None:
    before = names(repaired.parent)
    with pytest.raises(UserError, match=match):
        unfix_file(repaired, **options)
    assert names(repaired.parent) == before


def test_an_existing_output_is_refused_and_force_replaces_it(repaired):
    output = repaired.with_name("run_ORIGINAL.pth")
    output.write_bytes(b"precious")
    refused(repaired, "--force")
    assert output.read_bytes() == b"precious"
    assert digest(unfix_file(repaired, force=True).output) == digest(repaired.with_name("run.pth"))


def test_the_repaired_file_as_output_is_refused(repaired):
    refused(repaired, "--in-place", output=repaired, force=True)


@pytest.mark.parametrize("of", [record_of, sidecar_of])
def test_the_record_as_output_is_refused(repaired, of):
    refused(repaired, "is needed to undo", output=of(repaired), force=True)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pth does not exist"):
        unfix_file(tmp_path / "gone.pth")


def test_a_file_without_a_record_is_refused(broken):
    refused(broken, r"There is no record .*run\.repair\.json")


@pytest.mark.parametrize("change", [lambda data: data + b"x", lambda data: bytes([data[0] ^ 1]) + data[1:]])
def test_a_file_that_was_changed_after_its_repair_is_refused(repaired, change):
    repaired.write_bytes(change(repaired.read_bytes()))
    refused(repaired, "was changed or replaced after the repair")


def test_a_file_that_is_the_original_already_has_nothing_to_undo(broken):
    original = broken.read_bytes()
    fix_file(broken, FixOptions(in_place=True))
    broken.write_bytes(original)
    refused(broken, "nothing to undo")


def test_a_missing_sidecar_is_refused(repaired):
    sidecar_of(repaired).unlink()
    refused(repaired, r"run_FIXED\.repair\.bin is missing")


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"x"])
def test_a_sidecar_of_another_size_is_refused(repaired, change):
    sidecar_of(repaired).write_bytes(change(sidecar_of(repaired).read_bytes()))
    refused(repaired, r"repair\.bin is damaged: it has")


def test_a_sidecar_with_a_flipped_bit_is_refused(repaired):
    data = sidecar_of(repaired).read_bytes()
    sidecar_of(repaired).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    refused(repaired, r"repair\.bin is damaged: its SHA-256")


def test_a_record_that_was_altered_gives_no_output(repaired):
    report = json.loads(record_of(repaired).read_text())
    report["results"][0]["undo"]["files"][0]["ranges"][0][0] -= 1
    record_of(repaired).write_text(json.dumps(report))
    before = names(repaired.parent)
    with pytest.raises(RepairError, match="is not the original"):
        unfix_file(repaired)
    assert names(repaired.parent) == before
