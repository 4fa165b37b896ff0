"""What `observe` is told: of any type and shape of one element, on a graph or not."""

import math

import pytest
import torch
from torch.nn import functional

from live.guard.training import batch, net
from torchmend.facts.codes import Code
from torchmend.live.guard.guard import Guard


class Board:
    """Keeps the last loss that TensorBoard would show."""

    def __init__(self):
        self.loss = None

    def add_scalar(self, name, value, _):
        if name == "torchmend/loss":
            self.loss = value


def told(loss: torch.Tensor):
    """Train a step of which this loss is told; return what came of it, and what was read."""
    model, board = net(), Board()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, writer=board) as guard:
        images, labels = batch(0)
        assert guard.observe(loss) is loss
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return guard.events.decisions, board.loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_is_read_whatever_its_type_and_shape(dtype, shape):
    decisions, seen = told(torch.full(shape, 1.5, dtype=dtype))
    assert (list(decisions), seen) == ([], 1.5)


@pytest.mark.parametrize("value", [1e300, -1e300])
def test_a_loss_that_only_float64_holds_is_finite(value):
    decisions, seen = told(torch.tensor(value, dtype=torch.float64))
    assert (list(decisions), seen) == ([], value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_told_and_harms_nothing(dtype, value):
    (decision,), _ = told(torch.tensor(value, dtype=dtype))
    assert decision.happens
    assert [each.code for each in decision.findings] == [Code.TRAINING_LOSS_NOT_FINITE]


def test_a_loss_on_a_graph_keeps_it():
    model = net()
    with Guard(model, torch.optim.SGD(model.parameters(), 0.1)) as guard:
        images, labels = batch(0)
        guard.observe(functional.cross_entropy(model(images), labels)).backward()
    assert model.head.weight.grad is not None
