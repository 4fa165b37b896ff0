"""`torchmend.saving`: any saver writes a draft, and only what is healthy gets the name."""

import logging

import numpy as np
import pytest
import safetensors.torch
import torch

import torchmend

GOOD, BAD = torch.ones(4, 4), torch.full((4, 4), float("nan"))


def visible(folder):
    return sorted(each.name for each in folder.iterdir() if not each.name.endswith(".health.json"))


def save_safetensors(tensor, path):
    safetensors.torch.save_file({"fc.weight": tensor}, path)


def save_torch(tensor, path):
    torch.save({"fc.weight": tensor}, path)


def save_npz(tensor, path):
    np.savez(path, **{"fc.weight": tensor.numpy()})


def save_folder(tensor, path):
    path.mkdir()
    save_safetensors(tensor, path / "model.safetensors")
    (path / "config.json").write_text("{}")


SAVERS = [
    (save_safetensors, "model.safetensors"),
    (save_torch, "model.pt"),
    (save_npz, "model.npz"),
    (save_folder, "model"),
]


@pytest.mark.parametrize(("saver", "name"), SAVERS)
def test_what_any_saver_wrote_gets_its_name_if_it_is_healthy(tmp_path, saver, name):
    for _ in range(3):
        with torchmend.saving(tmp_path / name, keep=2) as draft:
            saver(GOOD, draft.path)
    assert draft.saved.healthy
    assert draft.saved.path == tmp_path / name
    stem, dot, suffix = name.partition(".")
    assert visible(tmp_path) == sorted([name, f"{stem}.2{dot}{suffix}"])


@pytest.mark.parametrize(("saver", "name"), SAVERS)
def test_what_is_corrupted_goes_to_quarantine(tmp_path, saver, name, caplog):
    with torchmend.saving(tmp_path / name) as draft:
        saver(GOOD, draft.path)
    before = (tmp_path / name).stat().st_ino
    with caplog.at_level(logging.ERROR, "torchmend.saving"), torchmend.saving(tmp_path / name) as draft:
        saver(BAD, draft.path)
    assert not draft.saved.healthy
    assert draft.saved.path.parent == tmp_path / ".torchmend" / "quarantine"
    assert (tmp_path / name).stat().st_ino == before
    assert "TM201" in caplog.text


def test_a_file_that_was_cut_off_goes_to_quarantine(tmp_path):
    with torchmend.saving(tmp_path / "model.pt") as draft:
        save_torch(GOOD, draft.path)
        draft.path.write_bytes(draft.path.read_bytes()[:600])
    assert not draft.saved.healthy
    assert not (tmp_path / "model.pt").exists()


def test_strict_raises(tmp_path):
    with (
        pytest.raises(torchmend.CorruptedStateError, match="TM201"),
        torchmend.saving(tmp_path / "model.pt", strict=True) as draft,
    ):
        save_torch(BAD, draft.path)


def test_an_error_in_the_block_saves_nothing(tmp_path):
    def interrupted(path):
        save_torch(GOOD, path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), torchmend.saving(tmp_path / "model.pt") as draft:
        interrupted(draft.path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"keep": 2.5}, {"step": "12"}, {"metric": "good"}])
def test_an_argument_that_makes_no_sense_is_told_before_the_block(tmp_path, wrong):
    entered = []
    with (
        pytest.raises(torchmend.UserError, match=f"{next(iter(wrong))} is"),
        torchmend.saving(tmp_path / "model.pt", **wrong),
    ):
        entered.append(wrong)
    assert not entered


def test_a_block_that_writes_nothing_is_told(tmp_path):
    with (
        pytest.raises(torchmend.UserError, match=r"Nothing was written to .*draft\.path"),
        torchmend.saving(tmp_path / "model.pt"),
    ):
        pass


def test_a_metric_may_be_known_only_inside_the_block(tmp_path):
    for metric in (0.5, float("nan"), 0.7, 0.6):
        with torchmend.saving(tmp_path / "model.pt") as draft:
            save_torch(torch.full((2, 2), metric if metric == metric else 0.0), draft.path)
            draft.metric = metric
    best = torch.load(tmp_path / "model_best.pt", weights_only=True)
    assert float(best["fc.weight"][0, 0]) == pytest.approx(0.7)


def test_the_best_of_folders_is_one_folder(tmp_path):
    for metric in (1.0, 2.0, 3.0):
        with torchmend.saving(tmp_path / "model", keep=1, metric=metric) as draft:
            save_folder(torch.full((2, 2), metric), draft.path)
    assert visible(tmp_path) == ["model", "model_best"]
    best = safetensors.torch.load_file(tmp_path / "model_best" / "model.safetensors")
    assert float(best["fc.weight"][0, 0]) == 3


def test_the_step_goes_into_the_name(tmp_path):
    for step in (1, 2, 3):
        with torchmend.saving(tmp_path / "ckpt_{step:03d}.pt", keep=2, step=step) as draft:
            save_torch(GOOD, draft.path)
    assert visible(tmp_path) == ["ckpt_002.pt", "ckpt_003.pt"]
