"""Ordinary trainings: not one intervention, and bit for bit what they are without a guard."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from live.guard.training import batch, net, same
from torchmend.live.guard.guard import Guard

STEPS = 30


@contextmanager
def guarding(on: bool, *arguments, **options) -> Iterator[Guard | None]:
    guard = Guard(*arguments, **options) if on else None
    yield guard
    if guard is not None:
        guard.detach()
        assert [decision for decision in guard.events.decisions if decision.action.value != "log"] == []


def loop(model, optimizer, loss_of: Callable[[int], torch.Tensor], on: bool, *, accumulate: int = 1):
    with guarding(on, model, optimizer) as guard:
        for step in range(STEPS):
            optimizer.zero_grad()
            for part in range(accumulate):
                loss = loss_of(step * accumulate + part)
                if guard is not None:
                    guard.observe(loss)
                (loss / accumulate).backward()
            optimizer.step()
    return [model.state_dict(), optimizer.state_dict()]


def classifier(on):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    return loop(model, optimizer, lambda step: functional.cross_entropy(model(batch(step)[0]), batch(step)[1]), on)


def without_batchnorm(on):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return loop(model, optimizer, lambda step: functional.cross_entropy(model(batch(step)[0]), batch(step)[1]), on)


def gpt(on):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
    model = nn.ModuleDict(
        {"embed": nn.Embedding(11, 16), "body": nn.TransformerEncoder(layer, 2), "out": nn.Linear(16, 11)}
    )
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)
    mask = nn.Transformer.generate_square_subsequent_mask(12)

    def loss_of(step):
        tokens = torch.randint(0, 11, (4, 13), generator=torch.Generator().manual_seed(step))
        hidden = model["body"](model["embed"](tokens[:, :-1]), mask=mask, is_causal=True)
        return functional.cross_entropy(model["out"](hidden).flatten(0, 1), tokens[:, 1:].flatten())

    return loop(model, optimizer, loss_of, on)


def gan(on):
    torch.manual_seed(0)
    make = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 6))
    tell = nn.Sequential(nn.Linear(6, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    optimizers = [torch.optim.Adam(each.parameters(), 1e-3) for each in (make, tell)]
    with guarding(on, [make, tell], optimizers):
        for step in range(STEPS):
            generator = torch.Generator().manual_seed(step)
            real, noise = torch.randn(8, 6, generator=generator), torch.randn(8, 4, generator=generator)
            optimizers[1].zero_grad()
            (functional.softplus(-tell(real)) + functional.softplus(tell(make(noise).detach()))).mean().backward()
            optimizers[1].step()
            optimizers[0].zero_grad()
            functional.softplus(-tell(make(noise))).mean().backward()
            optimizers[0].step()
    return [each.state_dict() for each in (make, tell, *optimizers)]


def vae(on):
    torch.manual_seed(0)
    model = nn.ModuleDict({"encode": nn.Linear(108, 8), "decode": nn.Linear(4, 108)})
    optimizer = torch.optim.Adam(model.parameters(), 0.003)

    def loss_of(step):
        flat = batch(step)[0].flatten(1)
        mean, logvar = model["encode"](flat).chunk(2, 1)
        sample = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=torch.Generator().manual_seed(step))
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum(1).mean()
        return functional.mse_loss(model["decode"](sample), flat, reduction="sum") / 8 + divergence

    return loop(model, optimizer, loss_of, on)


def contrastive(on):
    model = net()
    optimizer = torch.optim.AdamW(model.parameters(), 0.003)

    def loss_of(step):
        images = batch(step)[0]
        one, other = (functional.normalize(model(view), dim=1) for view in (images, images.flip(-1)))
        return functional.cross_entropy(one @ other.T / 0.1, torch.arange(len(one)))

    return loop(model, optimizer, loss_of, on)


def recurrent(on):
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(3, 8, batch_first=True), "out": nn.Linear(8, 1)})
    optimizer = torch.optim.RMSprop(model.parameters(), 0.003)

    def loss_of(step):
        series = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(step))
        return functional.mse_loss(model["out"](model["rnn"](series)[0]).squeeze(-1), series.sum(-1).cumsum(1) / 10)

    return loop(model, optimizer, loss_of, on)


def mixed_precision(on):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def loss_of(step):
        images, labels = batch(step)
        with torch.autocast("cpu", torch.bfloat16):
            out = model(images)
        return functional.cross_entropy(out.float(), labels)

    return loop(model, optimizer, loss_of, on)


def lbfgs(on):
    torch.manual_seed(0)
    model = nn.Linear(5, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), 0.1, line_search_fn="strong_wolfe")
    data = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    with guarding(on, model, optimizer):
        for _ in range(5):

            def closure():
                optimizer.zero_grad()
                loss = functional.mse_loss(model(data).squeeze(1), data.sum(1))
                loss.backward()
                return loss

            optimizer.step(closure)
    return [model.state_dict()]


def accumulation(on):
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.003)
    loss_of = lambda step: functional.cross_entropy(model(batch(step)[0]), batch(step)[1])  # noqa: E731
    return loop(model, optimizer, loss_of, on, accumulate=4)


TRAININGS = [
    classifier, without_batchnorm, gpt, gan, vae, contrastive, recurrent, mixed_precision, lbfgs, accumulation,
]  # fmt: skip


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.__name__)
def test_an_ordinary_training_is_not_touched(training):
    results = []
    for on in (False, True):
        torch.manual_seed(7)
        results.append(copy.deepcopy(training(on)))
    assert same(*results)
