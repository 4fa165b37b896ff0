"""`torchmend.save`: only what is healthy gets the name, and nothing is lost."""

import json
import logging
import math
import os

import numpy as np
import pytest
import torch
from torch import nn

import torchmend
from live.saving.states import INF, NAN, corrupted, healthy, value_in, visible
from torchmend.keeping import versions


def test_a_healthy_state_is_what_torch_would_have_saved(tmp_path):
    saved = torchmend.save(healthy(7), tmp_path / "last.pt")
    (tmp_path / "torch").mkdir()
    torch.save(healthy(7), tmp_path / "torch" / "last.pt")
    assert (saved.path, saved.healthy, saved.step) == (tmp_path / "last.pt", True, 7)
    assert saved.path.read_bytes() == (tmp_path / "torch" / "last.pt").read_bytes()


def test_a_missing_folder_is_made(tmp_path):
    assert torchmend.save(healthy(), str(tmp_path / "runs" / "7" / "last.pt")).path.exists()


def test_a_corrupted_state_goes_to_quarantine_and_the_last_one_stays(tmp_path, caplog):
    torchmend.save(healthy(3), tmp_path / "last.pt")
    with caplog.at_level(logging.ERROR, "torchmend.saving"):
        saved = torchmend.save(corrupted(), tmp_path / "last.pt")
    assert not saved.healthy
    assert saved.path == tmp_path / ".torchmend" / "quarantine" / "last.1.pt"
    assert [finding.code.value for finding in saved.findings] == ["TM201"]
    assert value_in(saved.path) != value_in(saved.path)
    assert value_in(tmp_path / "last.pt") == 3
    assert visible(tmp_path) == [".torchmend", "last.pt"]
    (record,) = caplog.records
    assert "CORRUPTED STATE at step 666" in record.message
    assert "TM201 model.fc.weight" in record.message
    assert str(saved.path) in record.message


def test_strict_raises_after_the_state_was_put_into_quarantine(tmp_path):
    with pytest.raises(torchmend.CorruptedStateError, match="TM201") as caught:
        torchmend.save(corrupted(), tmp_path / "last.pt", strict=True)
    assert caught.value.quarantined.exists()
    assert not (tmp_path / "last.pt").exists()


def test_quarantine_keeps_the_newest_three(tmp_path):
    for _ in range(5):
        torchmend.save(corrupted(), tmp_path / "last.pt")
    names = visible(tmp_path / ".torchmend" / "quarantine")
    assert names == ["last.3.pt", "last.4.pt", "last.5.pt"]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_versions_of_one_name_are_kept(tmp_path, keep):
    for value in range(5):
        torchmend.save(healthy(value), tmp_path / "last.pt", keep=keep)
    kept = sorted((value_in(each) for each in tmp_path.glob("*.pt")), reverse=True)
    assert kept == [4, 3, 2, 1, 0][:keep]
    assert value_in(tmp_path / "last.pt") == 4


def test_with_the_step_in_the_name_the_newest_files_are_kept(tmp_path):
    for value in (100, 200, 300, 150):
        saved = torchmend.save(healthy(value), tmp_path / "ckpt_{step:04d}.pt", keep=2)
    assert visible(tmp_path) == ["ckpt_0150.pt", "ckpt_0300.pt"]
    assert saved.removed == (tmp_path / "ckpt_0200.pt",)


def test_saving_a_step_again_replaces_it_and_keeps_the_older_one_as_a_version(tmp_path):
    torchmend.save(healthy(1), tmp_path / "ckpt_{step}.pt", step=5)
    torchmend.save(healthy(2), tmp_path / "ckpt_{step}.pt", step=5)
    assert value_in(tmp_path / "ckpt_5.pt") == 2
    assert value_in(tmp_path / "ckpt_5.1.pt") == 1


def test_what_others_saved_under_the_name_is_set_aside_and_never_removed(tmp_path):
    torch.save(healthy(99), tmp_path / "last.pt")
    torch.save(healthy(98), tmp_path / "last.2.pt")
    for value in range(4):
        torchmend.save(healthy(value), tmp_path / "last.pt", keep=1)
    assert {name: value_in(tmp_path / name) for name in visible(tmp_path)} == {
        "last.1.pt": 99,
        "last.2.pt": 98,
        "last.pt": 3,
    }


def test_a_version_that_was_renamed_is_its_users_own(tmp_path):
    torchmend.save(healthy(1), tmp_path / "last.pt")
    (tmp_path / "last.pt").rename(tmp_path / "paper.pt")
    (tmp_path / "last.pt.health.json").rename(tmp_path / "paper.pt.health.json")
    for value in range(4):
        torchmend.save(healthy(value), tmp_path / "last.pt", keep=1)
    assert value_in(tmp_path / "paper.pt") == 1


def test_two_names_in_one_folder_do_not_touch_each_other(tmp_path):
    for value in range(3):
        torchmend.save(healthy(value), tmp_path / "a.pt", keep=1)
        torchmend.save(healthy(value), tmp_path / "a.1.pt", keep=1)
    assert visible(tmp_path) == ["a.1.pt", "a.pt"]


def test_where_there_are_no_hard_links_versions_are_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(versions.os, "link", refuse)
    for value in range(4):
        torchmend.save(healthy(value), tmp_path / "last.pt", keep=2)
    assert {name: value_in(tmp_path / name) for name in visible(tmp_path)} == {"last.3.pt": 2, "last.pt": 3}


def test_a_stamp_tells_when_step_verdict_and_which_file(tmp_path):
    path = torchmend.save(healthy(12), tmp_path / "last.pt").path
    stamp = json.loads((tmp_path / "last.pt.health.json").read_text())
    assert (stamp["step"], stamp["verdict"], stamp["codes"]) == (12, "healthy", [])
    assert (stamp["size"], stamp["mtime_ns"]) == (path.stat().st_size, path.stat().st_mtime_ns)


def test_pick_reads_the_file_and_does_not_trust_a_stamp(tmp_path):
    from torchmend.doctor.siblings import pick_newest_healthy

    path = torchmend.save(healthy(1), tmp_path / "last.pt").path
    times = path.stat().st_mtime_ns
    data = path.read_bytes()
    path.write_bytes(data.replace(torch.full((4, 4), 1.0).numpy().tobytes(), torch.full((4, 4), NAN).numpy().tobytes()))
    os.utime(path, ns=(times, times))
    assert pick_newest_healthy(tmp_path).chosen is None


# What is no alarm


HARMLESS = {
    "a large loss scale": {"scaler": {"scale": 2.0**40, "growth_factor": 2.0, "_growth_tracker": 0}},
    "a small loss scale": {"scaler": {"scale": 2.0**-20, "growth_factor": 2.0, "_growth_tracker": 1999}},
    "a loss scale as a tensor": {"scaler": {"scale": torch.tensor(2.0**-30), "growth_factor": 2.0}},
    "found_inf": {"scaler": {"scale": 1024.0, "growth_factor": 2.0, "found_inf_per_device": torch.tensor([INF])}},
    "a best metric of NaN": {"best_psnr": NAN},
    "a best loss of Inf": {"best_loss": INF},
    "a NaN in a history of losses": {"losses": [1.0, NAN, 0.5]},
    "no optimizer": {"optimizer": None},
    "an optimizer before its first step": {"optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]}},
    "an attention mask": {"mask": torch.triu(torch.full((8, 8), -INF), 1)},
    "a sparse tensor": {"sparse": torch.eye(3).to_sparse()},
    "a meta tensor": {"empty": torch.empty(3, device="meta")},
    "no tensors at all": {"note": "hello"},
}


@pytest.mark.parametrize("case", HARMLESS)
@pytest.mark.filterwarnings("ignore")
def test_what_is_harmless_is_no_alarm(tmp_path, case, caplog):
    saved = torchmend.save({**healthy(), **HARMLESS[case]}, tmp_path / "last.pt", strict=True)
    assert saved.healthy
    assert not caplog.records


def test_a_mask_in_a_buffer_of_the_model_is_no_alarm(tmp_path):
    model = nn.Linear(3, 3)
    model.register_buffer("attn_mask", torch.triu(torch.full((8, 8), -INF), 1))
    assert torchmend.save({"model": model.state_dict()}, tmp_path / "last.pt").healthy
    assert torchmend.save(model, tmp_path / "whole.pt").healthy


HARMFUL = {
    "TM101": {"model": {"bn.running_mean": torch.tensor([INF, 1.0]), "bn.running_var": torch.ones(2)}},
    "TM103": {"model": {"bn.running_mean": torch.ones(2), "bn.running_var": torch.tensor([-1.0, 1.0])}},
    "TM303": {"optimizer": {"state": {0: {"exp_avg_sq": -torch.ones(4, 4)}}, "param_groups": [{"params": [0]}]}},
    "TM402": {"scaler": {"scale": 0.0, "growth_factor": 2.0, "_growth_tracker": 0}},
    "TM403": {"optimizer": {"state": {}, "param_groups": [{"lr": NAN, "params": [0]}]}},
}


@pytest.mark.parametrize("code", HARMFUL)
def test_what_is_finite_and_wrong_is_seen_too(tmp_path, code):
    saved = torchmend.save({**healthy(), **HARMFUL[code]}, tmp_path / "last.pt")
    assert not saved.healthy
    assert code in {finding.code.value for finding in saved.findings}


def test_a_scale_that_is_zero_in_a_tensor_is_seen(tmp_path):
    scaler = {"scale": torch.tensor(0.0), "growth_factor": 2.0, "_growth_tracker": 0}
    assert not torchmend.save({**healthy(), "scaler": scaler}, tmp_path / "last.pt").healthy


@pytest.mark.parametrize("wrap", [lambda model: [model], lambda model: (1, {"a": [model]})])
def test_what_is_no_dictionary_is_checked_too(tmp_path, wrap):
    assert torchmend.save(wrap(healthy()), tmp_path / "good.pt").healthy
    assert not torchmend.save(wrap(corrupted()), tmp_path / "bad.pt").healthy


def test_a_whole_module_is_checked(tmp_path):
    model = nn.Linear(3, 3)
    model.weight.data[0, 0] = NAN
    assert not torchmend.save(model, tmp_path / "model.pt").healthy


# The best


def metrics_kept(folder, values, mode):
    for value in values:
        torchmend.save(healthy(value if math.isfinite(value) else 0), folder / "last.pt", metric=value, mode=mode)
    return value_in(folder / "last_best.pt")


@pytest.mark.parametrize(("mode", "best"), [("max", 9), ("min", 2)])
def test_the_best_is_kept(tmp_path, mode, best):
    assert metrics_kept(tmp_path, [5.0, 2.0, 9.0, 7.0], mode) == best


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_metric_that_is_not_finite_never_wins_and_never_stays(tmp_path, mode, odd):
    assert metrics_kept(tmp_path, [odd, 5.0, odd], mode) == 5


@pytest.mark.parametrize("odd", [NAN, INF, -INF])
def test_a_metric_that_never_wins_is_told_once_for_each_name(tmp_path, odd, caplog):
    for name in ("last.pt", "last.pt", "other.pt"):
        torchmend.save(healthy(), tmp_path / name, metric=odd)
    assert [(each.name, each.levelname) for each in caplog.records] == [("torchmend.saving", "WARNING")] * 2
    first, second = (each.message for each in caplog.records)
    assert f"The metric of {tmp_path / 'last.pt'} is {odd}, which never wins" in first
    assert "not as other_best.pt" in second


def test_of_a_corrupted_state_the_metric_is_not_told_too(tmp_path, caplog):
    torchmend.save(corrupted(), tmp_path / "last.pt", metric=NAN)
    assert [each.levelname for each in caplog.records] == ["ERROR"]


def test_a_corrupted_state_is_never_the_best(tmp_path):
    torchmend.save(healthy(5), tmp_path / "last.pt", metric=5.0)
    assert torchmend.save(corrupted(), tmp_path / "last.pt", metric=99.0).best is None
    assert value_in(tmp_path / "last_best.pt") == 5


def test_a_metric_may_be_a_tensor(tmp_path):
    assert torchmend.save(healthy(), tmp_path / "last.pt", metric=torch.tensor(0.5)).best == tmp_path / "last_best.pt"


def test_rotation_never_takes_the_best(tmp_path):
    for value in (9, 1, 2, 3, 4):
        torchmend.save(healthy(value), tmp_path / "ckpt_{step}.pt", keep=1, metric=value)
    assert visible(tmp_path) == ["ckpt_4.pt", "ckpt_best.pt"]
    assert value_in(tmp_path / "ckpt_best.pt") == 9


def test_a_best_that_others_saved_is_set_aside(tmp_path):
    torch.save(healthy(99), tmp_path / "last_best.pt")
    torchmend.save(healthy(1), tmp_path / "last.pt", metric=1.0)
    assert value_in(tmp_path / "last_best.pt") == 1
    assert value_in(tmp_path / "last_best.1.pt") == 99


def test_the_best_survives_a_plain_write_to_the_name(tmp_path):
    torchmend.save(healthy(1), tmp_path / "last.pt", metric=1.0)
    (tmp_path / "last.pt").write_bytes(b"")
    assert value_in(tmp_path / "last_best.pt") == 1


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"keep": -1}, "keep is -1"),
        ({"keep": 2.5}, r"keep is 2\.5. Pass a whole number"),
        ({"keep": None}, "keep is None. Pass a whole number"),
        ({"keep": True}, "keep is True. Pass a whole number"),
        ({"step": 12.0}, r"step is 12\.0. Pass a whole number"),
        ({"step": "12"}, "step is '12'. Pass a whole number"),
        ({"metric": "good"}, "metric is 'good'. Pass one number"),
        ({"metric": torch.ones(2)}, r"metric is tensor\(.*Pass one number"),
        ({"mode": "best"}, "Pass one of max, min"),
        ({"path": "c_{step}.pt"}, "needs the step"),
        ({"path": "c_{step:>9}.pt", "step": 1}, r"Write \{step\} or \{step:06d\}"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_before_anything_is_written(tmp_path, options, message):
    path = tmp_path / options.pop("path", "last.pt")
    with pytest.raises(torchmend.UserError, match=message):
        torchmend.save({"model": {"weight": torch.ones(2)}}, path, **options)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_not_replaced_by_a_file(tmp_path):
    torchmend.save(healthy(), tmp_path / "run" / "last.pt")
    with pytest.raises(torchmend.UserError, match=r"run is a folder\. Name a file, such as .*last\.pt"):
        torchmend.save(healthy(), tmp_path / "run")
    assert visible(tmp_path) == ["run"]


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_path_without_a_name_is_refused(path):
    with pytest.raises(torchmend.UserError, match="has no name of a file"):
        torchmend.save(healthy(), path)


@pytest.mark.parametrize("step", [np.int64(12), torch.tensor(12)])
def test_a_step_may_be_a_whole_number_of_any_kind(tmp_path, step):
    saved = torchmend.save(healthy(), tmp_path / "c_{step:04d}.pt", step=step)
    assert (saved.path.name, saved.step) == ("c_0012.pt", 12)


def test_a_symbolic_link_is_replaced_and_what_it_leads_to_stays(tmp_path):
    torch.save(healthy(7), tmp_path / "iter_7.pt")
    (tmp_path / "last.pt").symlink_to("iter_7.pt")
    for value in (8, 9, 10):
        torchmend.save(healthy(value), tmp_path / "last.pt", keep=1)
    assert not (tmp_path / "last.pt").is_symlink()
    assert (value_in(tmp_path / "iter_7.pt"), value_in(tmp_path / "last.pt")) == (7, 10)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, RuntimeError])
def test_an_interrupted_save_leaves_what_was_there(tmp_path, monkeypatch, error):
    torchmend.save(healthy(1), tmp_path / "last.pt")

    def interrupted(_state, path):
        if hasattr(path, "write_bytes"):
            path.write_bytes(b"half")
        raise error

    monkeypatch.setattr("torchmend.live.saving.torch.save", interrupted)
    with pytest.raises(error):
        torchmend.save(healthy(2), tmp_path / "last.pt")
    assert value_in(tmp_path / "last.pt") == 1
    assert visible(tmp_path) == ["last.pt"]
