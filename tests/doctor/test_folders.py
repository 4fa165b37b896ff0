"""Checkpoints of several files: found, repaired as a whole or not at all, loaded back, undone bit for bit."""

from pathlib import Path

import pytest
import torch

from folders import distributed, files_of, load_distributed, load_sharded, sharded, state
from torchmend.doctor import fixing
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.doctor.siblings import pick_newest_healthy, sidecar_of
from torchmend.doctor.undoing import unfix_file
from torchmend.facts.errors import UserError

KINDS = ["safetensors", "bin"]
DAMAGED = {("bn.running_mean", 1), ("bn.running_var", 2)}


def places(diagnosis) -> list[str]:
    return sorted(finding.place for finding in diagnosis.damaged)


def assert_only_damage_changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    for name, tensor in before.items():
        for index in range(tensor.numel()):
            old, new = tensor.flatten()[index], after[name].flatten()[index]
            if (name, index) in DAMAGED:
                assert new.isfinite()
            else:
                assert old == new


@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_checkpoint_is_one_state(tmp_path, kind):
    index = sharded(tmp_path / "m", state(damaged=True), kind)
    diagnosis = diagnose_file(index)
    assert {ref.path for ref in diagnosis.refs} == set(state())
    assert places(diagnosis) == ["bn.running_mean", "bn.running_var"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("named", ["index", "folder"])
def test_a_sharded_checkpoint_is_repaired_into_a_folder_that_its_library_loads(tmp_path, kind, named):
    before = state(damaged=True)
    index = sharded(tmp_path / "m", before, kind)
    result = fix_file(index if named == "index" else index.parent)
    assert result.output == tmp_path / "m_FIXED"
    assert result.succeeded
    assert_only_damage_changed(before, load_sharded(result.output))
    assert (result.output / "config.json").read_bytes() == (index.parent / "config.json").read_bytes()


def test_a_distributed_checkpoint_is_repaired_and_loaded_by_torch(tmp_path):
    before = state(damaged=True)
    folder = distributed(tmp_path / "step-100", before)
    assert places(diagnose_file(folder)) == ["model.bn.running_mean", "model.bn.running_var"]
    result = fix_file(folder)
    assert result.succeeded
    assert_only_damage_changed(before, load_distributed(result.output, before))


@pytest.mark.parametrize("make", [sharded, distributed])
def test_undo_restores_every_file_bit_for_bit(tmp_path, make):
    made = make(tmp_path / "m", state(damaged=True))
    folder = made if made.is_dir() else made.parent
    output = fix_file(made).output
    restored = unfix_file(output).output
    assert restored == tmp_path / "m_ORIGINAL"
    assert files_of(restored) == files_of(folder)


def test_files_that_did_not_change_are_not_in_the_sidecar(tmp_path):
    tensors = state()
    tensors["bn.running_mean"][1] = float("nan")
    result = fix_file(sharded(tmp_path / "m", tensors))
    assert sidecar_of(result.output).stat().st_size == 4


@pytest.mark.parametrize("step", ["working_copy", "apply_plan", "diagnose_file", "write_record", "publish"])
def test_whatever_goes_wrong_leaves_no_file(tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError

    index = sharded(tmp_path / "m", state(damaged=True))
    before = files_of(tmp_path)
    monkeypatch.setattr(fixing, step, fail)
    with pytest.raises(OSError):  # noqa: PT011 - the one raised above
        fix_file(index)
    assert files_of(tmp_path) == before
    assert [each.name for each in tmp_path.iterdir()] == ["m"]


def test_an_existing_folder_is_replaced_only_when_forced(tmp_path):
    index = sharded(tmp_path / "m", state(damaged=True))
    (tmp_path / "m_FIXED").mkdir()
    (tmp_path / "m_FIXED" / "mine").write_text("mine")
    with pytest.raises(UserError, match="m_FIXED exists"):
        fix_file(index)
    fix_file(index, FixOptions(force=True))
    assert not (tmp_path / "m_FIXED" / "mine").exists()
    assert diagnose_file(tmp_path / "m_FIXED").healthy


def test_a_folder_is_not_repaired_in_place(tmp_path):
    index = sharded(tmp_path / "m", state(damaged=True))
    with pytest.raises(UserError, match="which cannot all be replaced at one moment"):
        fix_file(index, FixOptions(in_place=True))


@pytest.mark.parametrize("where", ["m/inner", "m"])
def test_the_result_does_not_go_into_the_source(tmp_path, where):
    index = sharded(tmp_path / "m", state(damaged=True))
    with pytest.raises(UserError):
        fix_file(index, FixOptions(output=tmp_path / where))


def test_a_donor_folder_gives_weights(tmp_path):
    broken = state()
    broken["head.weight"][1, 2] = float("nan")
    donor = sharded(tmp_path / "good", state())
    result = fix_file(sharded(tmp_path / "bad", broken), FixOptions(donors=(donor,)))
    assert torch.equal(load_sharded(result.output)["head.weight"], state()["head.weight"])


def test_a_healthy_folder_beside_is_offered(tmp_path):
    broken = state()
    broken["head.weight"][1, 2] = float("nan")
    donor = sharded(tmp_path / "checkpoint-100", state())
    assert fix_file(sharded(tmp_path / "checkpoint-200", broken)).siblings == (donor,)


def test_folders_and_files_are_found_once_each(tmp_path):
    index = sharded(tmp_path / "hf", state())
    torch.save(state(), tmp_path / "hf" / "optimizer.pt")
    folder = distributed(tmp_path / "dcp", state())
    torch.save(state(), tmp_path / "run.pth")
    assert checkpoint_paths(tmp_path) == sorted([index, tmp_path / "hf" / "optimizer.pt", folder, tmp_path / "run.pth"])


def test_the_newest_healthy_folder_is_picked(tmp_path):
    good = distributed(tmp_path / "step-1", state())
    distributed(tmp_path / "step-2", state(damaged=True))
    assert pick_newest_healthy(tmp_path).chosen == good


def test_a_folder_with_two_indexes_asks_which(tmp_path):
    sharded(tmp_path / "m", state())
    sharded(tmp_path / "m", state(), "bin")
    diagnosis = diagnose_file(tmp_path / "m")
    assert "This folder holds 2 checkpoints." in diagnosis.findings[0].message


def test_a_missing_shard_is_said_and_the_others_are_checked(tmp_path):
    index = sharded(tmp_path / "m", state(damaged=True))
    (tmp_path / "m" / "model-00002-of-00002.safetensors").unlink()
    diagnosis = diagnose_file(index)
    assert not diagnosis.checked
    assert {finding.ref.path for finding in diagnosis.findings if finding.code.means_unchecked} == {
        "bn.running_var",
        "head.weight",
    }
    assert "bn.running_mean" in places(diagnosis)


def test_a_cut_shard_is_said(tmp_path):
    index = sharded(tmp_path / "m", state())
    shard = Path(tmp_path / "m" / "model-00001-of-00002.safetensors")
    shard.write_bytes(shard.read_bytes()[:-8])
    assert "cannot be read" in diagnose_file(index).findings[0].message
