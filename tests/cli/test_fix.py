"""`torchmend fix`: what it writes, what it refuses, and that nothing is left behind."""

import errno
import hashlib
import os

import pytest

import checkpoints
from checkpoints import torchmend
from torchmend.doctor import fixing
from torchmend.keeping import drafts


def fresh():
    return checkpoints.training_checkpoint()


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with one damaged checkpoint."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.nan_channels(fresh()), tmp_path / "damaged.pth")
    return tmp_path


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Stand in a folder with one checkpoint that has a damaged mean and a damaged weight."""
    monkeypatch.chdir(tmp_path)
    checkpoints.save(checkpoints.nan_weight(checkpoints.nan_channels(fresh())), tmp_path / "weights.pth")
    return tmp_path


# What is written


def test_the_result_appears_beside_the_source_and_it_exits_0(folder):
    outcome = torchmend("fix", "damaged.pth")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert "Wrote damaged_FIXED.pth: HEALTHY" in outcome.stdout
    assert names(folder) == [
        "damaged.pth",
        "damaged_FIXED.pth",
        "damaged_FIXED.repair.bin",
        "damaged_FIXED.repair.json",
    ]


def test_the_source_stays_as_it_was(folder):
    before = digest(folder / "damaged.pth")
    torchmend("fix", "damaged.pth")
    assert digest(folder / "damaged.pth") == before


def test_torch_loads_the_result_and_only_the_damaged_channels_differ(folder):
    torchmend("fix", "damaged.pth")
    fixed, truth = checkpoints.load(folder / "damaged_FIXED.pth")["model_state_dict"], checkpoints.state_dict()
    changed = {name for name in truth if not fixed[name].equal(truth[name])}
    assert changed == {checkpoints.MEAN}
    assert (fixed[checkpoints.MEAN] != truth[checkpoints.MEAN]).nonzero().flatten().tolist() == [3, 17, 40]


def test_the_result_is_healthy_to_diagnose(folder):
    torchmend("fix", "damaged.pth")
    assert torchmend("diagnose", "damaged_FIXED.pth").rc == 0


def test_everything_that_is_fixable_is_fixed_at_once(folder):
    checkpoint = checkpoints.infinite_mean(checkpoints.negative_variance(fresh()))
    checkpoint = checkpoints.infinite_second_moment(checkpoints.nan_first_moment(checkpoint))
    checkpoints.save(checkpoint, folder / "all.pth")
    assert torchmend("fix", "all.pth").rc == 0
    assert torchmend("diagnose", "all_FIXED.pth").rc == 0


def test_a_moment_and_its_partner_are_zeroed_together(folder):
    checkpoints.save(checkpoints.infinite_second_moment(fresh()), folder / "moment.pth")
    torchmend("fix", "moment.pth")
    state = checkpoints.load(folder / "moment_FIXED.pth")["optimizer_state_dict"]["state"][0]
    assert state["exp_avg"].view(-1)[:2].tolist() == state["exp_avg_sq"].view(-1)[:2].tolist() == [0.0, 0.0]


def test_reset_writes_the_whole_statistic(folder):
    assert torchmend("fix", "damaged.pth", "--strategy", "reset").rc == 0
    assert (checkpoints.load(folder / "damaged_FIXED.pth")["model_state_dict"][checkpoints.MEAN] == 0).all()


def test_an_unknown_strategy_exits_2(folder):
    assert torchmend("fix", "damaged.pth", "--strategy", "magic").rc == 2


@pytest.mark.parametrize("option", ["-o", "--output"])
def test_the_result_goes_where_it_was_asked_to_go(folder, option):
    (folder / "out").mkdir()
    outcome = torchmend("fix", "damaged.pth", option, "out/mended.pth")
    assert outcome.rc == 0
    assert names(folder / "out") == ["mended.pth", "mended.repair.bin", "mended.repair.json"]
    assert names(folder) == ["damaged.pth", "out"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(folder):
    outcome = torchmend("fix", "damaged.pth", "--dry-run")
    assert outcome.rc == 0
    assert "3 elements of 64: predicted from surviving channels" in outcome.stdout
    assert outcome.stdout.endswith("Dry run: nothing was written.\n")
    assert names(folder) == ["damaged.pth"]


def test_a_healthy_file_is_left_alone(folder):
    checkpoints.save(fresh(), folder / "healthy.pth")
    outcome = torchmend("fix", "healthy.pth")
    assert outcome.rc == 0
    assert outcome.stdout.endswith("Nothing to repair; no file was written.\n")
    assert names(folder) == ["damaged.pth", "healthy.pth"]


def test_a_healthy_file_is_left_alone_in_place_too(folder):
    checkpoints.save(fresh(), folder / "healthy.pth")
    before = digest(folder / "healthy.pth")
    assert torchmend("fix", "healthy.pth", "--in-place").rc == 0
    assert digest(folder / "healthy.pth") == before
    assert names(folder) == ["damaged.pth", "healthy.pth"]


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04 and no more"])
def test_a_file_that_cannot_be_read_exits_2_and_nothing_is_written(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    assert torchmend("fix", tmp_path / "x.pth").rc == 2
    assert names(tmp_path) == ["x.pth"]


@pytest.mark.parametrize("target", ["missing.pth", "."])
def test_a_missing_file_or_a_folder_exits_2(folder, target):
    outcome = torchmend("fix", target)
    assert outcome.rc == 2
    assert "TM904" in outcome.stdout


# What exists already


def test_an_existing_output_is_refused_and_kept(folder):
    (folder / "damaged_FIXED.pth").write_text("mine")
    outcome = torchmend("fix", "damaged.pth")
    assert outcome.rc == 2
    assert outcome.stderr.startswith("torchmend: damaged_FIXED.pth exists. Use --force")
    assert (folder / "damaged_FIXED.pth").read_text() == "mine"


def test_force_replaces_an_existing_output(folder):
    (folder / "damaged_FIXED.pth").write_text("mine")
    assert torchmend("fix", "damaged.pth", "--force").rc == 0
    assert torchmend("diagnose", "damaged_FIXED.pth").rc == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_source_cannot_be_the_output(folder, force):
    before = digest(folder / "damaged.pth")
    outcome = torchmend("fix", "damaged.pth", "-o", "./damaged.pth", *force)
    assert outcome.rc == 2
    assert "--in-place" in outcome.stderr
    assert digest(folder / "damaged.pth") == before


def test_a_folder_that_does_not_exist_is_not_made(folder):
    outcome = torchmend("fix", "damaged.pth", "-o", "nowhere/x.pth")
    assert outcome.rc == 2
    assert "The folder nowhere does not exist." in outcome.stderr
    assert names(folder) == ["damaged.pth"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_as_output_is_refused_with_a_message_that_says_so(folder, force):
    (folder / "out").mkdir()
    outcome = torchmend("fix", "damaged.pth", "-o", "out", *force)
    assert outcome.rc == 2
    assert "out is a folder" in outcome.stderr
    assert names(folder) == ["damaged.pth", "out"]


# Numbers beside the model, and the optimizer


def test_numbers_beside_the_model_are_repaired_when_asked(folder):
    checkpoints.save({**fresh(), "best_psnr": float("nan")}, folder / "metric.pth")
    assert torchmend("fix", "metric.pth", "--metadata").rc == 0
    assert checkpoints.load(folder / "metric_FIXED.pth")["best_psnr"] == float("-inf")


def test_numbers_beside_the_model_are_left_alone_otherwise(folder):
    checkpoints.save({**fresh(), "best_psnr": float("nan")}, folder / "metric.pth")
    torchmend("fix", "metric.pth")
    assert "metric_FIXED.pth" not in names(folder)


def test_the_optimizer_can_be_reset_even_when_it_is_healthy(folder):
    checkpoints.save(fresh(), folder / "healthy.pth")
    assert torchmend("fix", "healthy.pth", "--reset-optimizer").rc == 0
    state = checkpoints.load(folder / "healthy_FIXED.pth")["optimizer_state_dict"]["state"]
    assert not any(tensor.any() for each in state.values() for tensor in each.values())


def test_the_report_ends_with_the_command_that_undoes_it(folder):
    assert torchmend("fix", "damaged.pth").stdout.endswith("To undo it: torchmend unfix damaged_FIXED.pth\n")
    outcome = torchmend("fix", "damaged.pth", "--in-place")
    assert outcome.stdout.endswith("To undo it: torchmend unfix damaged.pth --in-place\n")


# In place


def test_in_place_keeps_the_original_byte_for_byte(folder):
    before = digest(folder / "damaged.pth")
    outcome = torchmend("fix", "damaged.pth", "--in-place")
    assert outcome.rc == 0
    assert "Kept the original as damaged.pth.bak\n" in outcome.stdout
    assert names(folder) == ["damaged.pth", "damaged.pth.bak", "damaged.repair.bin", "damaged.repair.json"]
    assert digest(folder / "damaged.pth.bak") == before
    assert torchmend("diagnose", "damaged.pth").rc == 0


def test_a_second_in_place_uses_the_next_free_name(folder):
    torchmend("fix", "damaged.pth", "--in-place")
    first = digest(folder / "damaged.pth.bak")
    checkpoints.save(checkpoints.negative_variance(fresh()), folder / "damaged.pth")
    second = digest(folder / "damaged.pth")
    assert torchmend("fix", "damaged.pth", "--in-place").rc == 0
    assert names(folder) == [
        "damaged.pth",
        "damaged.pth.bak",
        "damaged.pth.bak1",
        "damaged.repair.bin",
        "damaged.repair.json",
    ]
    assert (digest(folder / "damaged.pth.bak"), digest(folder / "damaged.pth.bak1")) == (first, second)


def test_in_place_and_output_exclude_each_other(folder):
    outcome = torchmend("fix", "damaged.pth", "--in-place", "-o", "x.pth")
    assert outcome.rc == 2
    assert "exclude each other" in outcome.stderr
    assert names(folder) == ["damaged.pth"]


# Weights


def test_weights_are_refused_by_name_without_a_donor_and_nothing_is_written(weights):
    outcome = torchmend("fix", "weights.pth")
    assert outcome.rc == 1
    assert f"model_state_dict / {checkpoints.CONV_WEIGHT}: a weight cannot be invented" in outcome.stdout
    assert "Nothing was written" in outcome.stdout
    assert names(weights) == ["weights.pth"]


def test_a_refusal_names_the_healthy_siblings_newest_first_and_never_a_repaired_one(weights):
    checkpoints.save(fresh(), weights / "a_old.pth", age=300)
    checkpoints.save(fresh(), weights / "b_new.pth", age=100)
    checkpoints.save(fresh(), weights / "c_FIXED.pth", age=0)
    checkpoints.save(checkpoints.infinite_mean(fresh()), weights / "d_damaged.pth", age=0)
    outcome = torchmend("fix", "weights.pth")
    _, _, after = outcome.stdout.partition("newest first:\n")
    assert after.splitlines()[:2] == ["  b_new.pth", "  a_old.pth"]


def test_a_refusal_ends_with_the_command_that_would_help(weights):
    checkpoints.save(fresh(), weights / "other.pth")
    assert "torchmend fix weights.pth --donor other.pth" in torchmend("fix", "weights.pth").stdout


def test_the_command_that_would_help_can_be_pasted_into_a_shell(weights):
    (weights / "weights.pth").rename(weights / "my weights.pth")
    checkpoints.save(fresh(), weights / "other.pth")
    assert "torchmend fix 'my weights.pth' --donor " in torchmend("fix", "my weights.pth").stdout


def test_a_checkpoint_of_another_model_is_no_sibling(weights):
    checkpoints.save({"model_state_dict": {"other.weight": checkpoints.torch.ones(3)}}, weights / "other.pth")
    assert "Healthy checkpoints" not in torchmend("fix", "weights.pth").stdout


@pytest.mark.parametrize("options", [("--in-place",), ("-o", "mended.pth")])
def test_a_repaired_file_is_never_proposed_as_a_donor_whatever_its_name(weights, options):
    checkpoints.save(checkpoints.infinite_mean(fresh()), weights / "damaged.pth")
    assert torchmend("fix", "damaged.pth", *options).rc == 0
    assert "Healthy checkpoints" not in torchmend("fix", "weights.pth").stdout


def test_a_donor_gives_what_is_missing(weights):
    checkpoints.save(fresh(), weights / "donor.pth")
    outcome = torchmend("fix", "weights.pth", "--donor", "donor.pth")
    assert outcome.rc == 0
    assert "the damaged elements are taken from donor.pth" in outcome.stdout
    fixed, truth = checkpoints.load(weights / "weights_FIXED.pth")["model_state_dict"], checkpoints.state_dict()
    assert all(fixed[name].equal(truth[name]) for name in truth)


def test_a_bare_state_dict_can_be_a_donor(weights):
    checkpoints.save(checkpoints.state_dict(), weights / "donor.pth")
    assert torchmend("fix", "weights.pth", "--donor", "donor.pth").rc == 0


def test_of_several_donors_the_first_that_is_sound_gives(weights):
    checkpoints.save(checkpoints.nan_weight(fresh()), weights / "bad.pth")
    checkpoints.save(fresh(), weights / "good.pth")
    outcome = torchmend("fix", "weights.pth", "--donor", "bad.pth", "--donor", "good.pth")
    assert outcome.rc == 0
    assert "the damaged elements are taken from good.pth" in outcome.stdout


def test_the_patient_cannot_be_its_own_donor(weights):
    outcome = torchmend("fix", "weights.pth", "--donor", "./weights.pth")
    assert outcome.rc == 2
    assert "is the damaged file itself" in outcome.stderr
    assert names(weights) == ["weights.pth"]


def test_a_donor_with_the_same_damage_is_refused(weights):
    checkpoints.save(checkpoints.nan_weight(fresh(), [7]), weights / "donor.pth")
    outcome = torchmend("fix", "weights.pth", "--donor", "donor.pth")
    assert outcome.rc == 1
    assert f"no donor has a healthy {checkpoints.CONV_WEIGHT}" in outcome.stdout
    assert names(weights) == ["donor.pth", "weights.pth"]


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint"])
def test_a_donor_that_cannot_be_read_exits_2_and_is_named(weights, content):
    if content is not None:
        (weights / "donor.pth").write_bytes(content)
    outcome = torchmend("fix", "weights.pth", "--donor", "donor.pth")
    assert outcome.rc == 2
    assert outcome.stderr.startswith("torchmend: donor.pth cannot be a donor: ")


def test_allow_partial_repairs_the_rest_and_still_exits_1(weights):
    outcome = torchmend("fix", "weights.pth", "--allow-partial")
    assert outcome.rc == 1
    assert "Wrote weights_FIXED.pth: NEEDS DONOR" in outcome.stdout
    model = checkpoints.load(weights / "weights_FIXED.pth")["model_state_dict"]
    assert model[checkpoints.MEAN].isfinite().all()
    assert model[checkpoints.CONV_WEIGHT].isnan().sum() == 2


@pytest.mark.parametrize("partial", [(), ("--allow-partial",)])
def test_allow_partial_is_not_advised_where_there_is_no_rest(weights, partial):
    checkpoints.save(checkpoints.nan_weight(fresh()), weights / "only.pth")
    outcome = torchmend("fix", "only.pth", *partial)
    assert outcome.rc == 1
    assert "repairs the rest" not in outcome.stderr


def test_a_dry_run_with_a_refusal_exits_1(weights):
    assert torchmend("fix", "weights.pth", "--dry-run").rc == 1


def test_refusals_have_the_right_article(weights):
    checkpoint = fresh()
    moments = checkpoint["optimizer_state_dict"]["state"][0]
    moments["extrapolated"] = moments["exp_avg"] * float("nan")
    checkpoints.save(checkpoint, weights / "odd.pth")
    assert "an optimizer state cannot be invented" in torchmend("fix", "odd.pth").stdout


# Interruptions and errors on the way


def interrupted(*_, **__):
    raise KeyboardInterrupt


def disk_is_full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


STEPS = ["working_copy", "apply_plan", "_checked", "save_old_bytes", "write_record", "publish", "sync_folder"]
BEFORE_THE_RENAME = STEPS[:-1]


@pytest.mark.parametrize("options", [(), ("--in-place",)])
@pytest.mark.parametrize("step", BEFORE_THE_RENAME)
def test_control_c_exits_130_and_leaves_nothing_behind(folder, monkeypatch, step, options):
    before = digest(folder / "damaged.pth")
    monkeypatch.setattr(fixing, step, interrupted)
    assert torchmend("fix", "damaged.pth", *options).rc == 130
    assert names(folder) == ["damaged.pth"]
    assert digest(folder / "damaged.pth") == before


def test_control_c_is_answered_with_a_word(folder, monkeypatch):
    monkeypatch.setattr(fixing, "apply_plan", interrupted)
    assert "interrupted; nothing was left half-written" in torchmend("fix", "damaged.pth").stderr


@pytest.mark.parametrize("options", [(), ("--in-place",)])
@pytest.mark.parametrize("step", BEFORE_THE_RENAME)
def test_a_full_disk_exits_2_and_leaves_nothing_behind(folder, monkeypatch, step, options):
    before = digest(folder / "damaged.pth")
    monkeypatch.setattr(fixing, step, disk_is_full)
    outcome = torchmend("fix", "damaged.pth", *options)
    assert outcome.rc == 2
    assert outcome.stderr.startswith("torchmend: No space left on device. ")
    assert names(folder) == ["damaged.pth"]
    assert digest(folder / "damaged.pth") == before


def test_a_failure_keeps_an_existing_output_that_was_to_be_replaced(folder, monkeypatch):
    (folder / "damaged_FIXED.pth").write_text("mine")
    monkeypatch.setattr(fixing, "apply_plan", disk_is_full)
    assert torchmend("fix", "damaged.pth", "--force").rc == 2
    assert (folder / "damaged_FIXED.pth").read_text() == "mine"


def test_a_copy_that_is_still_damaged_is_removed_and_exits_2(folder, monkeypatch):
    monkeypatch.setattr(fixing, "apply_plan", lambda *_: {})
    outcome = torchmend("fix", "damaged.pth")
    assert outcome.rc == 2
    assert "still shows TM101, so it was removed" in outcome.stderr
    assert names(folder) == ["damaged.pth"]


def test_a_folder_without_permission_exits_2_and_is_named(folder, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))

    monkeypatch.setattr(drafts.tempfile, "mkstemp", refuse)
    outcome = torchmend("fix", "damaged.pth")
    assert outcome.rc == 2
    assert outcome.stderr.startswith(f"torchmend: Permission denied ({folder}). Nothing was left half-written")
    assert names(folder) == ["damaged.pth"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_exits_2(folder):
    folder.chmod(0o500)
    try:
        outcome = torchmend("fix", "damaged.pth")
    finally:
        folder.chmod(0o700)
    assert outcome.rc == 2
    assert names(folder) == ["damaged.pth"]
