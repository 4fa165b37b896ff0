"""Cases run in the loops of Lightning and Transformers as in the plain one."""

import pytest
import torch

from benchmarks.faults.frameworks import Lightning, Transformers
from benchmarks.faults.protections import CannotRunError, Nothing, best_of
from benchmarks.faults.training import Act, run
from fault_scores import tiny

pytestmark = pytest.mark.filterwarnings("ignore")
BOTH = pytest.mark.parametrize("framework", [Lightning, Transformers])


def ended(protection, **fields):
    torch.manual_seed(0)
    training = tiny(25, **fields)
    outcome = run(training, protection(training))
    return training, outcome


@BOTH
def test_a_run_that_nothing_is_clipped_in_ends_the_same_to_the_bit(framework):
    torch.manual_seed(0)
    alone, inside = tiny(25), tiny(25)
    inside.model.load_state_dict(alone.model.state_dict())
    for each in (alone, inside):
        with torch.no_grad():
            each.model.weight.mul_(0.1)
            each.model.bias.zero_()
    assert run(alone, Nothing(alone)).digest == run(inside, framework(inside)).digest


def test_lightning_stops_at_the_first_nan_of_a_backward_pass():
    _, outcome = ended(Lightning, bad=3)
    assert [(each.step, each.act) for each in outcome.events] == [(3, Act.STOP)]


def test_transformers_trains_on():
    _, outcome = ended(Transformers, bad=3)
    assert outcome.events == ()
    assert not outcome.finite


def test_lightning_runs_a_loop_with_a_grad_scaler():
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=10)
    _, outcome = ended(Lightning, scaler=scaler)
    assert outcome.finite
    assert scaler.get_scale() == 8.0 * 2**2


def test_transformers_says_that_it_cannot_scale_without_a_gpu():
    with pytest.raises(CannotRunError, match="needs a GPU"):
        ended(Transformers, scaler=torch.amp.GradScaler("cpu"))


@BOTH
def test_a_metric_that_is_nan_is_never_the_best(framework, tmp_path):
    ended(framework, saved=tmp_path)
    assert torch.load(best_of(tmp_path / "last.pt")) == 0
