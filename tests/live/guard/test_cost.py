"""A guarded step reads from the device once more than an unguarded one, whatever the optimizer."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from live.guard.training import OPTIMIZERS, batch, net
from torchmend.live.guard.guard import Guard


class Reads(TorchDispatchMode):
    """Counts what makes the host wait for the device: scalars read, lists made, choices by a tensor."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.count = 0
        for name in ("tolist", "numpy", "cpu"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, original):
        def method(tensor, *arguments, **keywords):
            self.count += 1
            return original(tensor, *arguments, **keywords)

        return method

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.is_nonzero):
            self.count += 1
        return function(*arguments, **(keywords or {}))


def reads_of(kind, monkeypatch, *, guarded: bool) -> int:
    model = net()
    optimizer = kind.make(list(model.parameters()))
    guard = Guard(model, optimizer, check_every=0) if guarded else None

    def step(seed):
        images, labels = batch(seed)
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        if guard is not None:
            guard.observe(loss)
        loss.backward()
        optimizer.step()

    for seed in range(2):
        step(seed)
    with Reads(monkeypatch) as reads:
        step(2)
    if guard is not None:
        guard.detach()
    return reads.count


CHOSEN = [kind for kind in OPTIMIZERS if kind.name in ("SGD", "AdamW-foreach", "AdamW-fused")]


@pytest.mark.parametrize("kind", CHOSEN, ids=lambda kind: kind.name)
def test_one_read_more(kind, monkeypatch):
    plain = reads_of(kind, monkeypatch, guarded=False)
    assert reads_of(kind, monkeypatch, guarded=True) - plain == 1
