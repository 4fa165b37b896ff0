"""An average whose statistics nobody averaged is told when it is evaluated."""

import copy

import torch
from torch import nn

from live.guard.training import batch, net, train
from torchmend import Guard
from torchmend.facts.codes import Code


class OfWeights(nn.Module):
    """Averages weights alone."""

    def __init__(self, model):
        super().__init__()
        self.module = copy.deepcopy(model)

    @torch.no_grad()
    def update_parameters(self, model):
        for mean, live in zip(self.module.parameters(), model.parameters(), strict=True):
            mean.lerp_(live, 0.5)

    def forward(self, images):
        return self.module(images)


def told(average, *, steps=3, evaluations=2, recalibrated=False):
    model = net()
    average = average(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Guard(model, optimizer, ema=average) as guard:
        for seed in range(steps):
            train(model, optimizer, *batch(seed))
            average.update_parameters(model)
        if recalibrated:
            torch.optim.swa_utils.update_bn([batch(9)[0]], average)
        average.eval()
        for _ in range(evaluations):
            average(batch(0)[0])
        return [each.code for decision in guard.events.decisions for each in decision.findings]


def test_statistics_that_never_moved_are_told_once():
    assert told(OfWeights) == [Code.STATISTIC_NEVER_MOVED]


def test_recalibrated_ones_are_not():
    assert told(OfWeights, recalibrated=True) == []


def test_an_average_that_copies_buffers_is_not():
    assert told(torch.optim.swa_utils.AveragedModel) == []


def test_nothing_is_told_before_the_model_has_been_trained():
    assert told(OfWeights, steps=0) == []
