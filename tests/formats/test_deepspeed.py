"""DeepSpeed's folders: flat stretches get the names of what lies in them, and float32 masters repair weights."""

import pytest
import torch

from folders import deepspeed, state
from torchmend.doctor.comparing import compare_files
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource
from torchmend.doctor.fixing import fix_file
from torchmend.facts.plans import Rung
from torchmend.facts.tensors import Role
from torchmend.reports.wording import what

STEM = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states"


@pytest.fixture
def broken(tmp_path):
    tensors = state()
    tensors["conv.weight"][0, 3] = float("nan")
    return deepspeed(tmp_path / "global_step100", tensors)


def test_stretches_are_listed_parameter_by_parameter(tmp_path):
    folder = deepspeed(tmp_path / "step", state())
    with FileSource(folder) as source:
        values = {ref.path: source.vector(ref).tolist() for ref in source.refs if ref.master}
    first, second = state()["conv.weight"].flatten().tolist(), state()["head.weight"].flatten().tolist()
    where = [f"{STEM.format(rank)}.optimizer_state_dict.fp32_master" for rank in range(2)]
    assert values == {
        f"{where[0]}.conv.weight[0:16]": first[:16],
        f"{where[1]}.conv.weight[16:24]": first[16:],
        f"{where[1]}.head.weight": second,
    }


def test_moments_are_those_of_parameters(tmp_path):
    folder = deepspeed(tmp_path / "step", state(), ranks=1)
    with FileSource(folder) as source:
        (moment,) = [ref for ref in source.refs if ref.name == "state.head.weight.exp_avg_sq"]
    assert (moment.role, moment.param, moment.shape) == (Role.SECOND_MOMENT, "module.head.weight", (2, 4))


def test_a_healthy_folder_is_healthy(tmp_path):
    diagnosis = diagnose_file(deepspeed(tmp_path / "step", state()))
    assert diagnosis.healthy
    assert diagnosis.main == "module"


def test_a_weight_is_repaired_from_its_master(broken, tmp_path):
    whole = deepspeed(tmp_path / "one", torch.load(broken / "mp_rank_00_model_states.pt")["module"], ranks=1)
    result = fix_file(whole)
    (edit,) = result.plan.edits
    assert (edit.rung, edit.approximate) == (Rung.MASTER, False)
    loaded = torch.load(result.output / "mp_rank_00_model_states.pt")["module"]["conv.weight"]
    expected = state()["conv.weight"].bfloat16()
    expected[0, 3] = 0.5
    assert torch.equal(loaded, expected)


def test_a_master_that_is_cut_between_ranks_cannot_give(broken):
    assert fix_file(broken).plan.refused


def test_a_damaged_master_is_repaired_from_its_weight(tmp_path):
    folder = deepspeed(tmp_path / "step", state(), ranks=1)
    path = folder / f"{STEM.format(0)}.pt"
    saved = torch.load(path)
    saved["optimizer_state_dict"]["single_partition_of_fp32_groups"][0][25] = float("inf")
    torch.save(saved, path)
    result = fix_file(folder)
    assert [edit.rung for edit in result.plan.edits] == [Rung.LIVE_TWIN]
    repaired = torch.load(result.output / path.name)["optimizer_state_dict"]["single_partition_of_fp32_groups"][0]
    assert repaired[25] == state()["head.weight"].flatten()[1].bfloat16()


def test_shapes_that_do_not_fill_the_vector_leave_it_whole(tmp_path):
    folder = deepspeed(tmp_path / "step", state(), ranks=1)
    path = folder / "mp_rank_00_model_states.pt"
    saved = torch.load(path)
    saved["param_shapes"][0]["conv.weight"] = torch.Size([400, 6])
    torch.save(saved, path)
    names = {ref.name for ref in diagnose_file(folder).refs}
    assert any("single_partition_of_fp32_groups" in name or name == "0" for name in names)


def test_a_rank_that_cannot_be_read_is_said(tmp_path):
    folder = deepspeed(tmp_path / "step", state())
    (folder / f"{STEM.format(1)}.pt").write_bytes(b"nonsense")
    diagnosis = diagnose_file(folder)
    assert not diagnosis.checked
    assert any(STEM.format(1) in finding.detail for finding in diagnosis.findings)


def test_two_folders_are_compared_master_with_master_and_weight_with_weight(tmp_path):
    changed = state()
    changed["head.weight"] += 1
    folders = deepspeed(tmp_path / "a", state(), ranks=1), deepspeed(tmp_path / "b", changed, ranks=1)
    moved = {
        change.ref.path for change in compare_files(*folders).changes if change.delta and change.delta.squared_delta
    }
    assert {"module.head.weight", f"{STEM.format(0)}.optimizer_state_dict.fp32_master.head.weight"} <= moved
    assert not any("conv.weight" in path for path in moved)


def test_a_master_is_called_one(tmp_path):
    with FileSource(deepspeed(tmp_path / "step", state(), ranks=1)) as source:
        (master,) = [ref for ref in source.refs if ref.master and ref.name == "head.weight"]
    assert what(master) == "master copy of a weight"
