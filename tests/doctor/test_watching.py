"""A watched folder: judged once it stands still, the last healthy checkpoint kept out of the trainer's reach."""

import errno
import json
import os
import shutil

import pytest
import safetensors.torch
import torch

import checkpoints
from torchmend.doctor import pins
from torchmend.doctor.pins import Pins
from torchmend.doctor.watching import Watcher

NOW = 1_700_000_000


def state(value=1.0):
    return {"model": {"fc.weight": torch.full((4, 4), float(value))}, "iteration": 5}


def value_in(path):
    return float(torch.load(path, weights_only=True)["model"]["fc.weight"][0, 0])


def save(folder, name, value=1.0, age=100):
    return checkpoints.save(state(value), folder / name, age=age)


def watcher(folder, keep=1, **options):
    link = options.pop("link", False)
    return Watcher(Pins(root=folder, keep=keep, link=link), **options)


def look(watching, clock=0.0, wall=NOW):
    return {each.path.relative_to(watching.pins.root).as_posix(): each for each in watching.look(clock, wall)}


def pinned(watching):
    return [value_in(path) for path, _ in watching.pins.pinned()]


def test_what_is_there_is_judged_once(tmp_path):
    save(tmp_path, "a.pt")
    watching = watcher(tmp_path)
    assert list(look(watching)) == ["a.pt"]
    assert look(watching) == {}


def test_what_has_changed_is_judged_again(tmp_path):
    save(tmp_path, "a.pt")
    watching = watcher(tmp_path)
    look(watching)
    save(tmp_path, "a.pt", float("nan"), age=50)
    assert not look(watching)["a.pt"].diagnosis.healthy


def test_a_fresh_file_is_judged_only_once_it_has_stood_still(tmp_path):
    save(tmp_path, "a.pt", age=0)
    watching = watcher(tmp_path, settled=2.0)
    assert look(watching, clock=10.0) == {}
    assert watching.is_waiting
    assert look(watching, clock=11.9) == {}
    assert list(look(watching, clock=12.0)) == ["a.pt"]
    assert not watching.is_waiting


def test_a_file_that_grows_is_waited_for(tmp_path):
    whole = save(tmp_path, "a.pt", age=0).read_bytes()
    watching = watcher(tmp_path, settled=2.0)
    for clock, part in ((10, 0.3), (11, 0.6), (12, 0.9), (13, 1.0)):
        (tmp_path / "a.pt").write_bytes(whole[: int(part * len(whole))])
        assert look(watching, clock=float(clock)) == {}
    assert look(watching, clock=15.0)["a.pt"].diagnosis.healthy


def test_a_file_from_the_future_of_another_clock_is_judged_all_the_same(tmp_path):
    save(tmp_path, "a.pt", age=-3600)
    watching = watcher(tmp_path)
    look(watching, clock=0.0)
    assert list(look(watching, clock=2.0)) == ["a.pt"]


def test_the_newest_healthy_one_is_pinned(tmp_path):
    save(tmp_path, "1.pt", 1, age=300)
    save(tmp_path, "2.pt", 2, age=200)
    save(tmp_path, "3.pt", float("nan"), age=100)
    watching = watcher(tmp_path)
    seen = look(watching)
    assert list(seen) == ["3.pt", "2.pt", "1.pt"]
    assert [seen[name].pinned is not None for name in seen] == [False, True, False]
    assert pinned(watching) == [2]


def test_a_pin_outlives_the_rotation_of_the_trainer(tmp_path):
    path = save(tmp_path, "1.pt", 1)
    watching = watcher(tmp_path)
    look(watching)
    path.unlink()
    look(watching)
    assert pinned(watching) == [1]


def test_a_pin_outlives_a_plain_write_to_the_same_name(tmp_path):
    path = save(tmp_path, "last.pt", 1)
    watching = watcher(tmp_path)
    look(watching)
    checkpoints.save(state(float("nan")), path, age=50)
    assert not look(watching)["last.pt"].diagnosis.healthy
    assert pinned(watching) == [1]


def test_a_hard_link_would_lose_its_content_with_such_a_write(tmp_path):
    path = save(tmp_path, "last.pt", 1)
    watching = watcher(tmp_path, link=True)
    pin = look(watching)["last.pt"].pinned
    assert pin.samefile(path)
    checkpoints.save(state(float("nan")), path, age=50)
    assert value_in(pin) != 1


def test_where_links_fail_a_copy_is_made(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(pins.os, "link", refuse)
    path = save(tmp_path, "last.pt", 1)
    pin = look(watcher(tmp_path, link=True))["last.pt"].pinned
    assert not pin.samefile(path)
    assert pin.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_so_many_pins_are_kept(tmp_path, keep):
    watching = watcher(tmp_path, keep)
    for value in range(5):
        save(tmp_path, "last.pt", value, age=500 - value)
        look(watching)
    assert pinned(watching) == [4, 3, 2, 1, 0][:keep]
    assert len(list(watching.pins.folder.iterdir())) == 2 * keep


def test_a_watcher_that_is_started_again_pins_nothing_twice(tmp_path):
    save(tmp_path, "1.pt", 1, age=300)
    save(tmp_path, "2.pt", 2, age=200)
    first = look(watcher(tmp_path, 2))
    second = look(watcher(tmp_path, 2))
    assert {name: each.pinned for name, each in first.items()} == {name: each.pinned for name, each in second.items()}


def test_what_others_put_among_the_pins_is_never_removed(tmp_path):
    watching = watcher(tmp_path)
    watching.pins.folder.mkdir(parents=True)
    (watching.pins.folder / "mine.pt").write_text("mine")
    for value in range(3):
        save(tmp_path, "last.pt", value, age=500 - value)
        look(watching)
    assert (watching.pins.folder / "mine.pt").read_text() == "mine"


def test_checkpoints_of_folders_below_are_pinned_under_their_folders_name(tmp_path):
    (tmp_path / "a").mkdir()
    save(tmp_path, "a/last.pt", 1)
    pin = look(watcher(tmp_path))["a/last.pt"].pinned
    assert pin.name == "a-last.20231114T221140Z.0.pt"


def test_a_sharded_checkpoint_is_pinned_whole(tmp_path):
    for at in (1, 2):
        safetensors.torch.save_file({f"{at}.weight": torch.ones(3)}, tmp_path / f"model-0000{at}-of-00002.safetensors")
    weights = {f"{at}.weight": f"model-0000{at}-of-00002.safetensors" for at in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    for each in tmp_path.iterdir():
        checkpoints.made_at(each, 100)
    pin = look(watcher(tmp_path))["model.safetensors.index.json"].pinned
    assert sorted(each.name for each in pin.iterdir()) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_corrupted_files_are_left_where_they_are(tmp_path):
    path = save(tmp_path, "bad.pt", float("nan"))
    assert look(watcher(tmp_path))["bad.pt"].quarantined is None
    assert path.exists()


def test_corrupted_files_are_moved_aside_where_that_is_asked_for(tmp_path):
    path = save(tmp_path, "bad.pt", float("nan"))
    data = path.read_bytes()
    watching = watcher(tmp_path, quarantine=True)
    moved = look(watching)["bad.pt"].quarantined
    assert moved == tmp_path / ".torchmend" / "quarantine" / "bad.1.pt"
    assert moved.read_bytes() == data
    assert not path.exists()
    assert look(watching) == {}


def test_a_file_that_is_cut_off_is_reported_and_not_moved(tmp_path):
    path = save(tmp_path, "half.pt")
    path.write_bytes(path.read_bytes()[:500])
    checkpoints.made_at(path, 100)
    seen = look(watcher(tmp_path, quarantine=True))["half.pt"]
    assert not seen.diagnosis.checked
    assert path.exists()


def test_a_pin_that_cannot_be_made_is_a_problem_and_does_not_stop_the_watch(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    save(tmp_path, "a.pt", age=200)
    save(tmp_path, "b.pt", float("nan"), age=100)
    monkeypatch.setattr(pins, "copy_files", full)
    seen = look(watcher(tmp_path))
    assert seen["a.pt"].problem == "No space left on device"
    assert list(seen) == ["b.pt", "a.pt"]


def test_a_file_that_changes_while_it_is_copied_is_not_pinned_but_looked_at_again(tmp_path, monkeypatch):
    path = save(tmp_path, "a.pt", age=200)
    original = pins.copy_files

    def copy_and_overwrite(copies):
        original(copies)
        save(tmp_path, "a.pt", float("nan"), age=150)

    monkeypatch.setattr(pins, "copy_files", copy_and_overwrite)
    watching = watcher(tmp_path)
    assert look(watching) == {}
    assert pinned(watching) == []
    assert not look(watching)["a.pt"].diagnosis.healthy
    assert path.exists()


def test_a_folder_without_checkpoints_or_that_has_gone_is_looked_at_in_vain(tmp_path):
    watching = watcher(tmp_path / "run")
    assert look(watching) == {}
    (tmp_path / "run").mkdir()
    save(tmp_path / "run", "a.pt")
    assert list(look(watching)) == ["a.pt"]
    shutil.rmtree(tmp_path / "run")
    assert look(watching) == {}


def test_the_last_healthy_one_of_a_run_that_rots_stays(tmp_path):
    watching = watcher(tmp_path, keep=2)
    for step in range(12):
        value = step if step < 6 else float("nan")
        save(tmp_path, f"ckpt_{step}.pt", value, age=1000 - step)
        (tmp_path / f"ckpt_{step - 3}.pt").unlink(missing_ok=True)
        look(watching)
    assert pinned(watching) == [5, 4]
