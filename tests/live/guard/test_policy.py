"""The policy is pure: what it decides follows from what it is shown and what it remembers."""

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies import quick
from torchmend.facts.codes import Code
from torchmend.facts.errors import UserError
from torchmend.live.guard.decisions import Action, Observation
from torchmend.live.guard.policy import Policy, PolicyState, Running, decide
from torchmend.live.guard.states import restored_policy_state

NAN, INF = float("nan"), float("inf")


def run(observations, policy=None, state=None):
    """Decide on several steps in turn; return the last state and all decisions."""
    state, decisions = state or PolicyState(), []
    for step, seen in enumerate(observations):
        state, decision = decide(policy or Policy(), state, replace(seen, step=step))
        decisions.append(decision)
    return state, decisions


def seen(**fields):
    return Observation(**{"step": 0, "gradient_norm": 1.0, "loss": 1.0, **fields})


def codes(decision):
    return [finding.code for finding in decision.findings]


def test_an_ordinary_step_happens_without_a_word():
    _, (decision,) = run([seen()])
    assert (decision.action, decision.findings) == (Action.PROCEED, ())


@pytest.mark.parametrize("norm", [NAN, INF])
def test_gradients_that_are_not_finite_refuse_the_step(norm):
    _, (decision,) = run([seen(gradient_norm=norm, gradients_finite=False, gradient="a.weight")])
    assert (decision.action, decision.origin, codes(decision)) == (
        Action.REFUSE,
        "a.weight",
        [Code.GRADIENT_NOT_FINITE],
    )


def test_buffers_that_the_forward_pass_broke_refuse_the_step():
    _, (decision,) = run([seen(buffers_finite=False, buffer="bn.running_mean")])
    assert (decision.action, codes(decision)) == (Action.REFUSE, [Code.MEAN_NOT_FINITE])


def test_buffers_that_were_broken_before_do_not_refuse_every_step():
    _, (decision,) = run([seen(buffers_finite=False, buffer="bn.running_mean", were_sound=False)])
    assert decision.happens


@pytest.mark.parametrize("loss", [NAN, INF])
def test_a_loss_of_nan_with_zero_gradients_is_logged_and_harmless(loss):
    _, (decision,) = run([seen(loss=loss, gradient_norm=0.0)])
    assert (decision.action, codes(decision)) == (Action.LOG, [Code.TRAINING_LOSS_NOT_FINITE])


def test_the_same_fault_again_and_again_stops_the_run_and_says_why():
    bad = seen(gradients_finite=False, gradient="a.weight")
    _, decisions = run([bad] * 8)
    assert [each.action for each in decisions] == [*[Action.REFUSE] * 7, Action.STOP]
    assert "8 of the last 8 steps were refused for the same reason at a.weight" in decisions[-1].explanation


def test_faults_far_apart_do_not_stop_the_run():
    bad, good = seen(gradients_finite=False, gradient="a.weight"), seen()
    _, decisions = run([bad, *[good] * 40] * 10)
    assert Action.STOP not in {each.action for each in decisions}


def test_faults_of_different_origin_do_not_add_up():
    _, decisions = run([seen(gradients_finite=False, gradient=f"layer{at}.weight") for at in range(20)])
    assert {each.action for each in decisions} == {Action.REFUSE}


def test_an_overflow_under_a_scaler_is_the_scaler_s_business():
    _, (decision,) = run([seen(gradients_finite=False, gradient="a.weight", scaled=True)])
    assert (decision.action, decision.by_scaler) == (Action.REFUSE, True)


def test_back_offs_at_the_start_of_a_run_are_no_incident():
    _, decisions = run([seen(gradients_finite=False, scaled=True)] * 5)
    assert all(codes(each) == [Code.GRADIENT_NOT_FINITE] for each in decisions)


def test_many_back_offs_later_on_are_a_warning():
    _, decisions = run([*[seen()] * 100, *[seen(gradients_finite=False, scaled=True)] * 3])
    assert codes(decisions[-1]) == [Code.GRADIENT_NOT_FINITE, Code.SCALER_COLLAPSING]


def ordinary(steps):
    return [seen(loss=2.0 + 0.1 * math.sin(at), gradient_norm=1.0 + 0.1 * math.cos(at)) for at in range(steps)]


def test_an_outlier_in_loss_and_norm_is_refused_once():
    spike = seen(loss=500.0, gradient_norm=400.0)
    _, decisions = run([*ordinary(200), spike, spike])
    assert [each.action for each in decisions[-2:]] == [Action.REFUSE, Action.LOG]
    assert codes(decisions[-2]) == [Code.TRAINING_SPIKE]


def test_an_outlier_is_refused_once_in_a_step_that_is_judged_twice():
    """A loop that skips the step goes on under the same number, and a closure is evaluated several times."""
    spike = seen(loss=500.0, gradient_norm=400.0, step=200)
    state, _ = run(ordinary(200))
    state, first = decide(Policy(), state, spike)
    _, second = decide(Policy(), state, spike)
    assert (first.action, second.action) == (Action.REFUSE, Action.LOG)


@pytest.mark.parametrize("odd", [{"loss": 500.0}, {"gradient_norm": 400.0}])
def test_an_outlier_in_one_of_them_alone_happens(odd):
    _, decisions = run([*ordinary(200), replace(seen(loss=2.0), **odd)])
    assert decisions[-1].happens


def test_before_the_warm_up_is_over_only_gross_outliers_are_refused():
    _, decisions = run([*ordinary(19), seen(loss=5.0, gradient_norm=4.0)])
    assert decisions[-1].happens
    _, decisions = run([*ordinary(8), seen(loss=500.0, gradient_norm=400.0)])
    assert decisions[-1].action is Action.REFUSE
    _, decisions = run([*ordinary(4), seen(loss=500.0, gradient_norm=400.0)])
    assert decisions[-1].happens


@pytest.mark.parametrize("odd", [{"variance_jump": 9.0}, {"update_ratio": 2.0}], ids=["variance", "update"])
def test_a_variance_or_an_update_agrees_with_a_loss_or_a_norm(odd):
    alone = replace(seen(loss=2.0), **odd)
    _, decisions = run([*ordinary(200), alone])
    assert decisions[-1].happens
    _, decisions = run([*ordinary(200), replace(alone, gradient_norm=400.0)])
    assert decisions[-1].action is Action.REFUSE


def test_three_outliers_lower_the_learning_rate_where_there_is_nothing_to_go_back_to():
    spike = seen(loss=500.0, gradient_norm=400.0)
    _, decisions = run([*ordinary(200), spike, spike, spike])
    assert [each.action for each in decisions[-3:]] == [Action.REFUSE, Action.LOG, Action.LOWER_RATE]
    assert decisions[-1].happens


def test_three_outliers_go_back_where_there_is_something_to_go_back_to():
    spike = seen(loss=500.0, gradient_norm=400.0, can_go_back=True)
    state, decisions = run([*ordinary(200), spike, spike, spike])
    assert (decisions[-1].action, decisions[-1].lowers_rate) == (Action.ROLL_BACK, True)
    assert state == PolicyState(alarmed=202)


def test_the_same_fault_again_and_again_goes_back_once_and_stops_if_nothing_is_better_then():
    bad = seen(gradients_finite=False, gradient="a.weight", can_go_back=True)
    _, decisions = run([*ordinary(5), *[bad] * 16])
    assert [each.action for each in decisions[5:]] == [
        *[Action.REFUSE] * 7, Action.ROLL_BACK, *[Action.REFUSE] * 7, Action.STOP,
    ]  # fmt: skip


def test_a_scaler_that_refuses_every_step_stops_the_run():
    bad = seen(gradients_finite=False, gradient="a.weight", scaled=True)
    _, decisions = run([*ordinary(5), *[bad] * 24])
    assert {each.action for each in decisions[5:-1]} == {Action.REFUSE}
    assert decisions[-1].action is Action.STOP
    assert "24 of the last 24 steps" in decisions[-1].explanation


def test_an_infinite_threshold_refuses_no_outlier():
    _, decisions = run([*ordinary(200), seen(loss=500.0, gradient_norm=400.0)], Policy(spike=INF))
    assert decisions[-1].happens


@quick
@given(st.lists(st.floats(), max_size=20), st.floats(min_value=1e-6, max_value=1e6))
def test_no_value_can_poison_the_running_statistics(values, last):
    running = Running()
    for value in [*values, last]:
        running = running.with_value(value)
    assert math.isfinite(running.mean)
    assert math.isfinite(running.variance)
    assert running.count >= 1


def test_the_memory_goes_through_json_and_back():
    bad = seen(gradients_finite=False, gradient="a")
    state, _ = run([*ordinary(30), bad, seen(loss=500.0, gradient_norm=400.0), replace(bad, scaled=True)])
    assert state.refusals
    assert state.outliers
    assert state.in_a_row
    assert restored_policy_state(json.loads(json.dumps(asdict(state)))) == state


@pytest.mark.parametrize(
    ("fields", "what"),
    [({"most_refusals": 0}, "most_refusals"), ({"window": 2}, "window"), ({"spike": 0.0}, "spike")],
)
def test_a_policy_without_a_meaning_is_refused(fields, what):
    with pytest.raises(UserError, match=f"{what} is "):
        Policy(**fields)


def test_a_variance_that_grew_by_far_is_told_once_in_a_while():
    wide = seen(loss=2.0, variance_jump=9.0)
    _, decisions = run([*ordinary(50), wide, wide])
    assert [each.action for each in decisions[-2:]] == [Action.LOG, Action.PROCEED]
    assert "torchmend.recalibrate" in decisions[-2].findings[0].detail
    _, decisions = run([*ordinary(19), wide])
    assert decisions[-1].action is Action.PROCEED


def falling(count):
    return [seen(loss=2.0 * 0.97**step) for step in range(count)]


def test_on_probation_a_loss_that_is_back_where_it_began_sends_the_run_back():
    spike = seen(loss=500.0, gradient_norm=400.0, can_go_back=True)
    back = [seen(loss=2.0, can_go_back=True)] * 20
    _, decisions = run([*falling(100), spike, *back])
    assert decisions[100].action is Action.REFUSE
    (at,) = [at for at, each in enumerate(decisions) if each.action is Action.ROLL_BACK]
    assert 110 <= at <= 120
    assert "back where the run began" in decisions[at].findings[0].detail


def test_without_an_outlier_a_loss_may_go_back_to_where_it_began():
    """As that of a discriminator does, whose generator has caught up."""
    _, decisions = run([*falling(100), *[seen(loss=2.0, can_go_back=True)] * 60])
    assert {each.action for each in decisions} == {Action.PROCEED}


def test_after_an_outlier_a_loss_that_stays_low_is_left_alone():
    spike = seen(loss=500.0, gradient_norm=400.0, can_go_back=True)
    _, decisions = run([*falling(100), spike, *[seen(loss=0.3, can_go_back=True)] * 60])
    assert {each.action for each in decisions[101:]} == {Action.PROCEED}


def test_probation_ends():
    spike = seen(loss=500.0, gradient_norm=400.0, can_go_back=True)
    quiet = [seen(loss=0.3, can_go_back=True)] * 201
    _, decisions = run([*falling(100), spike, *quiet, *[seen(loss=2.0, can_go_back=True)] * 60])
    assert Action.ROLL_BACK not in {each.action for each in decisions}


def test_a_learning_rate_below_zero_is_refused_and_stops_the_run():
    bad = seen(lowest_rate=-1e-4, can_go_back=True)
    _, decisions = run([*ordinary(50), *[bad] * 8])
    assert [each.action for each in decisions[50:]] == [*[Action.REFUSE] * 7, Action.STOP]
    assert "below zero" in decisions[-1].explanation


def test_losses_below_zero_have_outliers_too():
    rest = [seen(loss=-1.0 + 0.1 * (step % 3)) for step in range(60)]
    _, decisions = run([*rest, seen(loss=40.0, gradient_norm=400.0)])
    assert decisions[-1].action is Action.REFUSE
