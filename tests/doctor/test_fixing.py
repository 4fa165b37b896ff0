"""Repairs of whole files: what is written, what is refused, and that nothing is ever half-written."""

from pathlib import Path

import pytest
import torch

import bad_files
import checkpoints
from torchmend.doctor import fixing
from torchmend.doctor.fixing import FixOptions, fix_file
from torchmend.facts.codes import Code
from torchmend.facts.errors import RepairError, SourceChangedError, UserError
from torchmend.facts.plans import Rung
from torchmend.repairs.planning import Strategy

NAN, INF = float("nan"), float("inf")


def statistics(mean=(0.1, 0.2, 0.3, 0.2), var=(1.0, 1.1, 0.9, 1.2)) -> dict[str, torch.Tensor]:
    return {"c.weight": torch.ones(4, 2), "b.running_mean": torch.tensor(mean), "b.running_var": torch.tensor(var)}


@pytest.fixture
def broken(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    torch.save({"model": statistics(mean=(0.1, INF, 0.3, 0.2))}, path)
    return path


@pytest.fixture
def weightless(tmp_path) -> Path:
    path = tmp_path / "run.pth"
    torch.save({"model": {**statistics(), "c.weight": torch.tensor([[1.0, NAN]] * 4)}}, path)
    return path


def listing(path: Path) -> set[str]:
    return {each.name for each in path.parent.iterdir()}


def test_the_result_stands_beside_the_source_under_its_own_name(broken):
    assert fix_file(broken).output == broken.with_name("run_FIXED.pth")


def test_the_source_is_left_as_it_was(broken):
    before = broken.read_bytes()
    fix_file(broken)
    assert broken.read_bytes() == before


def test_a_second_repair_of_the_result_has_nothing_to_do(broken):
    again = fix_file(fix_file(broken).output)
    assert again.output is None
    assert again.succeeded
    assert not again.plan.edits


def test_a_healthy_file_gives_no_output(tmp_path):
    path = tmp_path / "ok.pth"
    torch.save(statistics(), path)
    assert fix_file(path).output is None
    assert listing(path) == {"ok.pth"}


def test_an_existing_output_is_refused(broken):
    broken.with_name("run_FIXED.pth").write_bytes(b"precious")
    with pytest.raises(UserError, match="--force"):
        fix_file(broken)
    assert broken.with_name("run_FIXED.pth").read_bytes() == b"precious"


def test_in_place_keeps_every_earlier_version(broken):
    original = broken.read_bytes()
    first = fix_file(broken, FixOptions(in_place=True))
    assert first.backup.read_bytes() == original
    torch.save({"model": statistics(var=(1.0, NAN, 1.0, 2.0))}, broken)
    second = fix_file(broken, FixOptions(in_place=True))
    assert {first.backup.name, second.backup.name} == {"run.pth.bak", "run.pth.bak1"}


def test_the_source_as_output_is_refused(broken):
    with pytest.raises(UserError, match="--in-place"):
        fix_file(broken, FixOptions(output=broken, force=True))


def test_a_dry_run_plans_and_writes_nothing(broken):
    result = fix_file(broken, FixOptions(dry_run=True))
    assert result.plan.edits
    assert listing(broken) == {"run.pth"}


def test_weights_are_refused_without_a_donor(weightless):
    result = fix_file(weightless)
    assert not result.succeeded
    assert [refusal.about.name for refusal in result.plan.refused] == ["c.weight"]
    assert listing(weightless) == {"run.pth"}


def test_weights_come_from_a_donor_element_by_element(weightless, tmp_path):
    donor = tmp_path / "donor.pth"
    torch.save({"model": {**statistics(), "c.weight": torch.full((4, 2), 7.0)}}, donor)
    output = fix_file(weightless, FixOptions(donors=(donor,))).output
    assert torch.load(output)["model"]["c.weight"].tolist() == [[1.0, 7.0]] * 4


def test_a_donor_may_be_wrapped_otherwise(weightless, tmp_path):
    donor = tmp_path / "donor.pth"
    torch.save({f"module.{name}": torch.full_like(t, 7.0) for name, t in statistics().items()}, donor)
    assert fix_file(weightless, FixOptions(donors=(donor,))).succeeded


def test_a_donor_with_the_same_damage_cannot_serve(weightless, tmp_path):
    donor = tmp_path / "donor.pth"
    donor.write_bytes(weightless.read_bytes())
    result = fix_file(weightless, FixOptions(donors=(donor,)))
    assert not result.succeeded
    assert "no donor" in result.plan.refused[0].reason


def test_an_unreadable_donor_is_named(broken, tmp_path):
    with pytest.raises(UserError, match=r"gone\.pth cannot be a donor"):
        fix_file(broken, FixOptions(donors=(tmp_path / "gone.pth",)))


def test_a_partial_repair_leaves_what_was_refused(tmp_path):
    path = tmp_path / "run.pth"
    torch.save({**statistics(mean=(0.1, INF, 0.3, 0.2)), "c.weight": torch.full((4, 2), NAN)}, path)
    result = fix_file(path, FixOptions(allow_partial=True))
    assert not result.succeeded
    loaded = torch.load(result.output)
    assert loaded["b.running_mean"].isfinite().all()
    assert loaded["c.weight"].isnan().all()


def test_the_reset_strategy_resets_the_whole_statistic(broken):
    output = fix_file(broken, FixOptions(strategy=Strategy.RESET)).output
    loaded = torch.load(output)["model"]
    assert loaded["b.running_mean"].tolist() == [0.0] * 4
    assert torch.equal(loaded["b.running_var"], statistics()["b.running_var"])


def test_a_lost_statistic_comes_from_the_averaged_copy_in_the_file(tmp_path):
    path = tmp_path / "run.pth"
    copy = statistics(mean=(4.0, 5.0, 6.0, 7.0))
    torch.save({"model": statistics(mean=(INF,) * 4), "ema_state_dict": copy}, path)
    result = fix_file(path)
    assert [edit.rung for edit in result.plan.edits] == [Rung.AVERAGED_COPY]
    assert torch.load(result.output)["model"]["b.running_mean"].tolist() == [4.0, 5.0, 6.0, 7.0]


def test_an_averaged_copy_that_never_moved_is_not_believed(tmp_path):
    path = tmp_path / "run.pth"
    copy = statistics(mean=(0.0,) * 4, var=(1.0,) * 4)
    torch.save({"model": statistics(mean=(INF,) * 4), "ema_state_dict": copy}, path)
    assert fix_file(path).plan.edits[0].rung is not Rung.AVERAGED_COPY


def test_nothing_left_anywhere_gives_identity_and_says_so(tmp_path):
    path = tmp_path / "run.pth"
    torch.save(statistics(mean=(INF,) * 4, var=(NAN,) * 4), path)
    result = fix_file(path)
    assert {edit.rung for edit in result.plan.edits} == {Rung.IDENTITY}
    assert all(edit.approximate for edit in result.plan.edits)


def test_both_moments_of_a_damaged_element_start_afresh(tmp_path):
    path = tmp_path / "run.pth"
    moments = {"exp_avg": torch.ones(3), "exp_avg_sq": torch.tensor([1.0, INF, -2.0])}
    torch.save({"opt": {"state": {0: moments}, "param_groups": [{"params": [0]}]}}, path)
    state = torch.load(fix_file(path).output)["opt"]["state"][0]
    assert state["exp_avg"].tolist() == [1.0, 0.0, 0.0]
    assert state["exp_avg_sq"].tolist() == [1.0, 0.0, 0.0]


def test_both_moments_damaged_at_different_elements_are_both_made_whole(tmp_path):
    path = tmp_path / "run.pth"
    moments = {"exp_avg": torch.tensor([NAN, 1.0, 1.0]), "exp_avg_sq": torch.tensor([1.0, 1.0, INF])}
    torch.save({"opt": {"state": {0: moments}, "param_groups": [{"params": [0]}]}}, path)
    state = torch.load(fix_file(path).output)["opt"]["state"][0]
    assert state["exp_avg"].tolist() == [0.0, 1.0, 0.0]
    assert state["exp_avg_sq"].tolist() == [1.0, 1.0, 0.0]


def test_a_statistic_in_half_precision_stays_finite(tmp_path):
    path = tmp_path / "run.pth"
    var = torch.tensor([60000.0, 65000.0, 64000.0, INF], dtype=torch.float16)
    torch.save({"b.running_mean": torch.zeros(4).half(), "b.running_var": var}, path)
    assert torch.load(fix_file(path).output)["b.running_var"].isfinite().all()


def test_healthy_siblings_are_named_newest_first_and_repaired_copies_are_not(weightless, tmp_path):
    import os

    for age, name in enumerate(("old.pth", "run_best.pth", "run_FIXED.pth")):
        torch.save({"model": statistics()}, tmp_path / name)
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    torch.save({"model": {"c.weight": torch.full((4, 2), NAN)}}, tmp_path / "sick.pth")
    assert [path.name for path in fix_file(weightless).siblings] == ["run_best.pth", "old.pth"]


class Interruption(BaseException):
    """Stands for Ctrl-C or a kill signal's handler."""


STEPS = ["working_copy", "apply_plan", "diagnose_file", "save_old_bytes", "write_record", "sync_files", "publish"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("error", [Interruption, OSError])
def test_whatever_goes_wrong_leaves_no_file(broken, monkeypatch, step, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fixing, step, fail)
    before = broken.read_bytes()
    with pytest.raises(error):
        fix_file(broken)
    assert listing(broken) == {"run.pth"}
    assert broken.read_bytes() == before


def test_a_copy_that_is_still_damaged_is_removed(broken, monkeypatch):
    monkeypatch.setattr(fixing, "apply_plan", lambda *_: {})
    with pytest.raises(RepairError, match="still shows TM101"):
        fix_file(broken)
    assert listing(broken) == {"run.pth"}


def test_a_source_that_changes_meanwhile_is_noticed(broken, monkeypatch):
    original = fixing.apply_plan

    def apply_and_touch(*arguments):
        journals = original(*arguments)
        broken.write_bytes(broken.read_bytes() + b"more")
        return journals

    monkeypatch.setattr(fixing, "apply_plan", apply_and_touch)
    with pytest.raises(SourceChangedError, match="changed while it was being read"):
        fix_file(broken)
    assert listing(broken) == {"run.pth"}


def test_an_unreadable_file_gives_its_diagnosis_and_no_output(tmp_path):
    path = tmp_path / "run.pth"
    path.write_bytes(b"")
    result = fix_file(path)
    assert result.output is None
    assert not result.succeeded


def test_a_numpy_array_inside_the_pickle_is_refused(tmp_path):
    import numpy as np

    path = tmp_path / "run.pth"
    torch.save({"weight": np.array([1.0, NAN])}, path)
    result = fix_file(path)
    assert "inside the pickle" in result.plan.refused[0].reason


def test_a_first_moment_that_cannot_be_written_does_not_stop_its_second(tmp_path):
    import numpy as np

    path = tmp_path / "run.pth"
    moments = {"exp_avg": np.ones(3, dtype=np.float32), "exp_avg_sq": torch.tensor([1.0, INF, 2.0])}
    torch.save({"opt": {"state": {0: moments}, "param_groups": [{"params": [0]}]}}, path)
    output = fix_file(path).output
    assert torch.load(output, weights_only=False)["opt"]["state"][0]["exp_avg_sq"].tolist() == [1.0, 0.0, 2.0]


def test_a_source_that_is_rewritten_during_the_scan_is_noticed_and_nothing_is_written(broken):
    data = broken.read_bytes()

    def rewrite(_done: int, _total: int) -> None:
        broken.write_bytes(data + b"more")

    with pytest.raises(SourceChangedError, match="changed while it was being read"):
        fix_file(broken, progress=rewrite)
    assert listing(broken) == {"run.pth"}


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("file", ["run_FIXED.repair.bin", "run_FIXED.repair.json", "run_FIXED.pth", "run.pth"])
def test_a_rename_that_fails_takes_back_what_was_placed_before(broken, monkeypatch, file, in_place):
    original, before = Path.replace, broken.read_bytes()
    refused = file.replace("_FIXED", "") if in_place else file

    def replace(self: Path, target: Path) -> Path:
        if target.name == refused:
            raise PermissionError
        return original(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    if file == "run.pth" and not in_place:
        assert fix_file(broken).succeeded
        return
    with pytest.raises(PermissionError):
        fix_file(broken, FixOptions(in_place=in_place))
    assert listing(broken) == {"run.pth"}
    assert broken.read_bytes() == before


def test_an_interruption_after_the_last_rename_keeps_backup_and_record(broken, monkeypatch):
    original, before = Path.replace, broken.read_bytes()

    def replace(self: Path, target: Path) -> Path:
        original(self, target)
        if target == broken:
            raise Interruption
        return target

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(Interruption):
        fix_file(broken, FixOptions(in_place=True))
    assert listing(broken) == {"run.pth", "run.pth.bak", "run.repair.json", "run.repair.bin"}
    assert broken.with_name("run.pth.bak").read_bytes() == before


def test_no_file_of_the_repair_is_open_when_the_output_gets_its_name(broken, monkeypatch):
    """Windows would refuse to replace it."""
    original, opened = fixing.publish, []
    make = fixing.FileSource

    def remember(path: Path):
        opened.append(make(path))
        return opened[-1]

    def publish(*arguments, **options):
        assert opened
        assert all(source.contents.files[0].buffer.closed for source in opened)
        return original(*arguments, **options)

    monkeypatch.setattr(fixing, "FileSource", remember)
    monkeypatch.setattr(fixing, "publish", publish)
    assert fix_file(broken, FixOptions(in_place=True)).succeeded


def test_without_hard_links_the_backup_is_a_copy(broken, monkeypatch):
    import os

    def refuse(*_: object) -> None:
        raise PermissionError

    before = broken.read_bytes()
    monkeypatch.setattr(os, "link", refuse)
    broken.with_name("run.pth.bak").write_bytes(b"mine")
    result = fix_file(broken, FixOptions(in_place=True))
    assert result.backup.name == "run.pth.bak1"
    assert result.backup.read_bytes() == before
    assert broken.with_name("run.pth.bak").read_bytes() == b"mine"


def test_a_read_only_source_gives_a_read_only_result(broken):
    broken.chmod(0o440)
    result = fix_file(broken)
    assert {p.stat().st_mode & 0o777 for p in (result.output, result.record)} == {0o440}


def test_a_leftover_of_a_killed_run_is_swept_up(broken):
    import os

    leftover = broken.with_name(".run_FIXED.pth.torchmend-abc.part")
    leftover.write_bytes(b"half")
    os.utime(leftover, (1000, 1000))
    assert fix_file(broken).succeeded
    assert not leftover.exists()


# Files that are damaged and not to be trusted


def test_a_hostile_file_with_nothing_to_repair_does_not_count_as_success(tmp_path):
    result = fix_file(bad_files.hostile(tmp_path / "x.pth"))
    assert (result.output, result.succeeded) == (None, False)


def test_the_numbers_of_a_hostile_file_are_repaired_and_it_stays_untrusted(tmp_path):
    state = checkpoints.infinite_mean(checkpoints.training_checkpoint())
    bad_files.hostile(tmp_path / "x.pth", state)
    result = fix_file(tmp_path / "x.pth")
    assert result.output is not None
    assert {f.code for f in result.after.findings} == {Code.DANGEROUS_GLOBAL}
    assert not result.succeeded
