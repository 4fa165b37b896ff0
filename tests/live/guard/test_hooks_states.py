"""What a guard remembers goes through a save: in the middle of a run, after it, and where it is switched off."""

import torch

from live.guard.training import batch, kept, net, same, train
from torchmend.live.guard.clipping import By, Clip
from torchmend.live.guard.guard import Guard

NAN = float("nan")


def start(**options):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    return model, optimizer, Guard(model, optimizer, **options)


def test_what_was_done_is_told_after_detaching_too():
    model, optimizer, guard = start()
    with guard:
        train(model, optimizer, *batch(0))
        train(model, optimizer, *batch(1, bad=NAN))
        before, state = guard.summary(), guard.state_dict()
    assert guard.steps == 2
    assert guard.summary() == before
    assert guard.state_dict() == state


def test_a_state_goes_through_a_guard_that_is_switched_off(monkeypatch):
    model, optimizer, guard = start()
    train(model, optimizer, *batch(0))
    state = guard.state_dict()
    monkeypatch.setenv("TORCHMEND_GUARD", "off")
    _, _, off = start()
    off.load_state_dict(state)
    assert off.state_dict() == state


def test_a_guard_that_was_switched_off_leaves_a_state_that_can_be_gone_on_from(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("TORCHMEND_GUARD", "off")
        _, _, off = start()
    _, _, guard = start()
    guard.load_state_dict(off.state_dict())
    assert guard.steps == 0


def test_a_run_that_is_taken_up_again_clips_as_if_it_had_gone_on():
    ends = []
    for restart in (False, True):
        model, optimizer, guard = start(clip=Clip(by=By.PERCENTILE, limit=1.0))
        for seed in range(6):
            if restart and seed == 3:
                state = guard.state_dict()
                guard.detach()
                guard = Guard(model, optimizer, clip=Clip(by=By.PERCENTILE, limit=1.0))
                guard.load_state_dict(state)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch(seed)[0]), batch(seed)[1]).backward()
            optimizer.step()
        guard.detach()
        ends.append(kept(model))
    assert same(*ends)
