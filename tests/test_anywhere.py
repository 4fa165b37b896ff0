"""One call for files and live objects, and the mistakes that one can make with it."""

import pytest
import torch
from torch import nn

import checkpoints
import torchmend
from torchmend.facts.codes import Code


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_path_is_diagnosed_as_a_file(tmp_path, kind):
    path = checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), tmp_path / "x.pth")
    assert [f.code for f in torchmend.diagnose(kind(path)).findings] == [Code.MEAN_NOT_FINITE]


def test_one_call_takes_files_dictionaries_and_models(tmp_path):
    network = checkpoints.Network()
    path = checkpoints.save(network.state_dict(), tmp_path / "x.pth")
    sources = (path, network.state_dict(), {"model": network.state_dict()}, {"model": network}, network)
    assert all(torchmend.diagnose(source).healthy for source in sources)


def test_a_file_that_is_missing_gives_a_finding():
    assert [f.code for f in torchmend.diagnose("/nowhere/x.pth").findings] == [Code.UNREADABLE]


def test_a_path_is_sent_to_fix(tmp_path):
    with pytest.raises(torchmend.UserError, match=r"Use torchmend.fix"):
        torchmend.repair(tmp_path / "x.pth")


def test_an_optimizer_beside_a_path_is_a_mistake(tmp_path):
    with pytest.raises(torchmend.UserError, match="its own optimizer state"):
        torchmend.diagnose(tmp_path / "x.pth", torch.optim.SGD(nn.Linear(2, 2).parameters()))


def test_checksums_of_a_live_object_are_a_mistake():
    with pytest.raises(torchmend.UserError, match="Only files have checksums"):
        torchmend.diagnose(nn.Linear(2, 2), verify_checksums=True)


@pytest.mark.parametrize("source", [3, None, torch.zeros(3), [nn.Linear(2, 2)]])
def test_a_source_of_another_kind_is_a_type_error_that_lists_what_is_taken(source):
    with pytest.raises(TypeError, match=r"Cannot repair .* Pass a state dict or checkpoint dict, or a torch.nn.Module"):
        torchmend.repair(source)


def test_a_donor_of_another_kind_is_a_type_error():
    with pytest.raises(TypeError, match=r"A int cannot be a donor. Pass the path of a checkpoint"):
        torchmend.repair(nn.Linear(2, 2), donors=[3])


@pytest.mark.parametrize("donors", ["x.pth", {"weight": torch.ones(2)}, nn.Linear(2, 2)])
def test_a_donor_that_is_not_in_a_list_is_a_type_error(donors):
    with pytest.raises(TypeError, match="list of donors"):
        torchmend.repair(nn.Linear(2, 2), donors=donors)


def test_a_missing_donor_is_a_mistake(tmp_path):
    with pytest.raises(torchmend.UserError, match="cannot be a donor"):
        torchmend.repair(nn.Linear(2, 2), donors=[tmp_path / "none.pth"])


def test_the_damaged_model_is_no_donor_to_itself():
    network = nn.Linear(2, 2)
    with pytest.raises(torchmend.UserError, match="its own donor"):
        torchmend.repair(network, donors=[network])
