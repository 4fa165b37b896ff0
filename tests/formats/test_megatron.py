"""Megatron's classic folders: ranks below an iteration, and masters that have numbers for names."""

import shutil

import torch

from folders import files_of, megatron, state
from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.discovery import checkpoint_paths
from torchmend.doctor.fixing import fix_file
from torchmend.doctor.undoing import unfix_file
from torchmend.facts.plans import Rung


def test_a_healthy_folder_is_healthy_and_found_once(tmp_path):
    folder = megatron(tmp_path / "iter_0000100", state())
    assert diagnose_file(folder).healthy
    assert checkpoint_paths(tmp_path) == [folder]


def test_a_weight_is_repaired_from_its_numbered_master(tmp_path):
    tensors = state()
    tensors["head.weight"][1, 1] = float("nan")
    folder = megatron(tmp_path / "iter_0000100", tensors)
    result = fix_file(folder)
    assert [edit.rung for edit in result.plan.edits] == [Rung.MASTER]
    loaded = torch.load(result.output / "mp_rank_00" / "model_optim_rng.pt")["model"]["head.weight"]
    assert loaded[1, 1] == 0.5
    assert files_of(unfix_file(result.output).output) == files_of(folder)


def test_names_of_several_ranks_stand_below_the_rank(tmp_path):
    folder = megatron(tmp_path / "iter_0000100", state())
    shutil.copytree(folder / "mp_rank_00", folder / "mp_rank_01")
    names = {ref.path for ref in diagnose_file(folder).refs}
    assert {"mp_rank_00.model.conv.weight", "mp_rank_01.model.conv.weight"} <= names
