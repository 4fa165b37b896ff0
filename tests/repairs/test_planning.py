"""Plans beyond running statistics: twins, scalers, learning rates, metrics, and a fresh optimizer."""

import math

import numpy as np
import pytest

from fake_sources import ArraySource
from torchmend.facts.codes import Code
from torchmend.facts.findings import Diagnosis
from torchmend.facts.plans import CopyDamaged, FillAll, FillDamaged, Rung
from torchmend.repairs.donors import Donor
from torchmend.repairs.patches import patches
from torchmend.repairs.planning import plan_repair
from torchmend.rules.judge import judge
from torchmend.rules.roles import main_container

INF, NAN = math.inf, math.nan
WEIGHT = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
POISONED = np.where(np.arange(32).reshape(4, 8) % 9 == 2, np.float32(NAN), WEIGHT)
SCALER = {"scaler.growth_factor": 2.0, "scaler.scale": 0.0}


def diagnosed(source):
    return Diagnosis(
        source="memory",
        main=main_container(source.refs),
        refs=source.refs,
        measures=source.measures,
        scalars=source.scalars,
        findings=judge(source),
    )


def plan(arrays, scalars=None, optimizers=None, **options):
    source = ArraySource(arrays, scalars, optimizers)
    return source, plan_repair(diagnosed(source), source, **options)


def applied(source, edit, donors=None):
    """Return the tensor as the edit would leave it."""
    raw = source.raw(edit.ref).reshape(-1).copy()
    for index, bits in patches(edit, source, donors or {}):
        raw[index] = bits
    return raw.view(source.arrays[edit.ref].dtype).reshape(edit.ref.shape)


# Averaged copies and live weights


def test_a_poisoned_average_takes_the_poisoned_elements_from_its_live_twin():
    average = WEIGHT + 0.5
    source, made = plan({"model/c.weight": WEIGHT, "ema/c.weight": np.where(np.isnan(POISONED), NAN, average)})
    (edit,) = made.edits
    assert (edit.rung, edit.codes) == (Rung.LIVE_TWIN, (Code.AVERAGED_NOT_FINITE,))
    expected = np.where(np.isnan(POISONED), WEIGHT, average).astype(np.float32)
    assert np.array_equal(applied(source, edit), expected)


def test_a_poisoned_weight_takes_the_poisoned_elements_from_its_average():
    source, made = plan({"model/c.weight": POISONED, "ema/c.weight": WEIGHT + 0.5})
    (edit,) = made.edits
    assert edit.rung is Rung.AVERAGED_COPY
    expected = np.where(np.isnan(POISONED), WEIGHT + 0.5, WEIGHT).astype(np.float32)
    assert np.array_equal(applied(source, edit), expected)


@pytest.mark.parametrize(("live", "average"), [("float16", "float32"), ("float32", "float16"), ("float32", "float64")])
def test_values_of_another_element_type_are_rounded_to_the_patient_s(live, average):
    source, made = plan({"model/c.weight": POISONED.astype(live), "ema/c.weight": WEIGHT.astype(average)})
    found = applied(source, made.edits[0])
    assert found.dtype == live
    assert np.array_equal(found, np.where(np.isnan(POISONED), WEIGHT.astype(average).astype(live), WEIGHT.astype(live)))


def test_a_damaged_average_is_no_help():
    _, made = plan({"model/c.weight": POISONED, "ema/c.weight": POISONED})
    assert made.is_empty
    assert len(made.refused) == 2


def test_the_average_of_the_same_file_is_preferred_to_a_donor():
    donor = ArraySource({"model/c.weight": WEIGHT})
    donors = [Donor(name="other.pth", source=donor, main="model")]
    _, made = plan({"model/c.weight": POISONED, "ema/c.weight": WEIGHT}, donors=donors)
    assert made.edits[0].change == CopyDamaged(source="", ref=made.edits[0].change.ref)


def test_a_poisoned_average_without_a_live_twin_needs_a_donor():
    _, made = plan({"ema/c.weight": POISONED, "model/d.weight": WEIGHT})
    assert [each.place for each in made.refused] == ["ema.c.weight"]


# The loss scaler


def test_a_broken_scale_becomes_torch_s_initial_one():
    _, made = plan({"model/c.weight": WEIGHT}, SCALER)
    (edit,) = made.scalars
    assert (edit.scalar.dotted, edit.value, edit.rung) == ("scaler.scale", 65536.0, Rung.FRESH)
    assert edit.codes == (Code.SCALER_BROKEN,)


def test_a_broken_scale_in_a_tensor_becomes_torch_s_initial_one():
    source, made = plan({"model/c.weight": WEIGHT, "scaler/scale": np.float32([NAN])})
    assert applied(source, made.edits[0]).tolist() == [65536.0]


def test_a_small_scale_is_left_alone():
    _, made = plan({"model/c.weight": WEIGHT}, SCALER | {"scaler.scale": 0.25})
    assert made.is_empty
    assert not made.refused


def test_a_broken_scale_that_cannot_be_written_is_refused():
    source = ArraySource({"model/c.weight": WEIGHT}, SCALER)
    made = plan_repair(diagnosed(source), source, pinned=frozenset(source.scalars))
    assert [each.place for each in made.refused] == ["scaler.scale"]


# Learning rates and metrics


def test_a_learning_rate_is_refused_without_being_asked_for():
    _, made = plan({"model/c.weight": WEIGHT}, {"opt.param_groups.0.lr": NAN, "sched._last_lr.0": 0.1})
    assert made.is_empty
    assert "--metadata" in made.refused[0].reason


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"sched._last_lr.0": 0.1, "opt.param_groups.0.initial_lr": 0.5}, 0.1),
        ({"opt.param_groups.0.initial_lr": 0.5, "sched.base_lrs.0": 0.7}, 0.5),
        ({"sched._last_lr.0": NAN, "opt.param_groups.0.initial_lr": 0.5}, 0.5),
        ({"sched._last_lr.0": 0.1, "sched._last_lr.1": 0.2}, 0.1),
    ],
)
def test_a_learning_rate_is_taken_from_where_the_file_still_has_one(others, expected):
    _, made = plan({"model/c.weight": WEIGHT}, {"opt.param_groups.0.lr": NAN, **others}, metadata=True)
    edit = next(e for e in made.scalars if e.scalar.dotted == "opt.param_groups.0.lr")
    assert (edit.value, edit.rung) == (expected, Rung.SAME_FILE)


def test_the_learning_rate_of_the_second_group_comes_from_the_second_group():
    scalars = {"opt.param_groups.1.lr": NAN, "sched._last_lr.0": 0.1, "sched._last_lr.1": 0.2}
    _, made = plan({"model/c.weight": WEIGHT}, scalars, metadata=True)
    assert made.scalars[0].value == 0.2


def test_a_learning_rate_that_stands_nowhere_is_refused():
    _, made = plan({"model/c.weight": WEIGHT}, {"opt.param_groups.0.lr": INF}, metadata=True)
    assert made.is_empty
    assert "no finite learning rate" in made.refused[0].reason


@pytest.mark.parametrize(
    ("name", "value", "worst"),
    [
        ("best_psnr", NAN, -INF),
        ("best_val_loss", NAN, INF),
        ("best_val_loss", -INF, INF),
        ("best_acc", INF, -INF),
        ("val_loss", NAN, INF),
    ],
)
def test_a_metric_becomes_the_worst_value_there_is_when_asked_for(name, value, worst):
    _, made = plan({"model/c.weight": WEIGHT}, {name: value}, metadata=True)
    (edit,) = made.scalars
    assert (edit.value, edit.rung) == (worst, Rung.WORST)


def test_a_metric_is_left_alone_without_being_asked_for():
    _, made = plan({"model/c.weight": WEIGHT}, {"best_psnr": NAN})
    assert made.is_empty
    assert not made.refused


def test_a_metric_of_which_the_better_side_is_not_known_is_refused():
    _, made = plan({"model/c.weight": WEIGHT}, {"best_metric": NAN}, metadata=True)
    assert "lower or higher" in made.refused[0].reason


def test_every_nan_of_a_history_is_repaired():
    _, made = plan(
        {"model/c.weight": WEIGHT}, {f"val_loss.{n}": NAN if n % 2 else 0.5 for n in range(6)}, metadata=True
    )
    assert [edit.scalar.path[-1] for edit in made.scalars] == [1, 3, 5]


# A fresh optimizer

OPTIMIZER = {"opt": (("0", "c.weight"),)}
MOMENTS = {
    "model/c.weight": WEIGHT,
    "opt/state.0.step": np.float32(12.0),
    "opt/state.0.exp_avg": POISONED,
    "opt/state.0.exp_avg_sq": np.square(WEIGHT),
}


def test_a_fresh_optimizer_has_zero_moments_and_has_taken_no_step():
    source, made = plan(MOMENTS, None, OPTIMIZER, reset_optimizer=True)
    assert {edit.ref.leaf for edit in made.edits} == {"step", "exp_avg", "exp_avg_sq"}
    assert all(not applied(source, edit).any() for edit in made.edits)
    assert {edit.rung for edit in made.edits} == {Rung.FRESH}


def test_a_fresh_optimizer_leaves_the_model_alone():
    _, made = plan(MOMENTS, None, OPTIMIZER, reset_optimizer=True)
    assert all(edit.ref.role.is_optimizer for edit in made.edits)


def test_an_integer_step_counter_is_reset_too():
    source, made = plan({**MOMENTS, "opt/state.0.step": np.int64(12)}, None, OPTIMIZER, reset_optimizer=True)
    edit = next(e for e in made.edits if e.ref.leaf == "step")
    assert applied(source, edit) == 0


def test_the_product_of_momenta_of_a_fresh_nadam_is_one():
    source, made = plan({**MOMENTS, "opt/state.0.mu_product": np.float32(0.3)}, None, OPTIMIZER, reset_optimizer=True)
    edit = next(e for e in made.edits if e.ref.leaf == "mu_product")
    assert applied(source, edit) == 1.0


@pytest.mark.parametrize("leaf", ["step_size", "eta", "something_new"])
def test_state_whose_beginning_is_not_known_is_refused(leaf):
    _, made = plan({**MOMENTS, f"opt/state.0.{leaf}": WEIGHT}, None, OPTIMIZER, reset_optimizer=True)
    assert [each.place for each in made.refused] == [f"opt.state.0.{leaf}"]


def test_a_step_counter_inside_the_pickle_is_refused():
    arrays = {name: array for name, array in MOMENTS.items() if not name.endswith("step")}
    _, made = plan(arrays, {"opt.state.0.step": 12}, OPTIMIZER, reset_optimizer=True)
    assert [each.place for each in made.refused] == ["opt.state.0.step"]


def test_without_a_reset_only_damaged_moments_are_touched():
    _, made = plan(MOMENTS, None, OPTIMIZER)
    assert [(edit.ref.leaf, type(edit.change)) for edit in made.edits] == [("exp_avg", FillDamaged)]


def test_a_reset_of_a_healthy_optimizer_fills_everything():
    _, made = plan({**MOMENTS, "opt/state.0.exp_avg": WEIGHT}, None, OPTIMIZER, reset_optimizer=True)
    assert all(isinstance(edit.change, FillAll) for edit in made.edits)


# What a plan says


def test_an_edit_names_the_findings_that_it_answers():
    moments = {
        **MOMENTS,
        "opt/state.0.exp_avg": WEIGHT,
        "opt/state.0.exp_avg_sq": np.where(np.isnan(POISONED), NAN, -1),
    }
    _, made = plan({k: np.float32(v) for k, v in moments.items()}, None, OPTIMIZER)
    second = next(e for e in made.edits if e.ref.leaf == "exp_avg_sq")
    assert second.codes == (Code.SECOND_MOMENT_NOT_FINITE, Code.SECOND_MOMENT_NEGATIVE)


def test_a_first_moment_that_only_follows_its_second_answers_no_finding_of_its_own():
    moments = {**MOMENTS, "opt/state.0.exp_avg": WEIGHT, "opt/state.0.exp_avg_sq": POISONED}
    _, made = plan(moments, None, OPTIMIZER)
    first = next(e for e in made.edits if e.ref.leaf == "exp_avg")
    assert first.codes == ()


def test_every_edit_and_scalar_edit_has_a_reason():
    arrays = {**MOMENTS, "ema/c.weight": POISONED}
    _, made = plan(arrays, SCALER | {"best_psnr": NAN}, OPTIMIZER, metadata=True)
    assert all(edit.reason for edit in (*made.edits, *made.scalars))
