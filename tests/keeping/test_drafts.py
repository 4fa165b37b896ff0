"""Files under construction: hidden, gone on failure, and leftovers of killed runs are swept up."""

import os
import time

import pytest

from torchmend.keeping.drafts import draft_beside, sweep


def test_a_draft_is_hidden_and_stands_beside_its_target(tmp_path):
    with draft_beside(tmp_path / "run.pth") as draft:
        assert draft.parent == tmp_path
        assert draft.name.startswith(".run.pth.")
        assert draft.name.endswith(".part")


def test_a_draft_is_gone_after_an_error(tmp_path):
    with pytest.raises(KeyboardInterrupt), draft_beside(tmp_path / "run.pth"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_renamed_draft_stays(tmp_path):
    with draft_beside(tmp_path / "run.pth") as draft:
        draft.write_text("whole")
        draft.replace(tmp_path / "run.pth")
    assert [each.name for each in tmp_path.iterdir()] == ["run.pth"]


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (".run.pth.torchmend-abc.part", 7200, False),
        (".run.pth.torchmend-abc.part", 60, True),
        (".other.pth.torchmend-abc.part", 7200, True),
        (".run.pth.abc.part", 7200, True),
        ("run.pth.torchmend-abc.part", 7200, True),
    ],
)
def test_only_old_drafts_of_the_same_target_are_swept(tmp_path, name, age, stays):
    (tmp_path / name).write_text("")
    os.utime(tmp_path / name, (time.time() - age,) * 2)
    sweep(tmp_path / "run.pth")
    assert (tmp_path / name).exists() is stays


def test_sweeping_a_folder_that_is_not_there_is_no_error(tmp_path):
    sweep(tmp_path / "nowhere" / "run.pth")
