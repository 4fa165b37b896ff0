"""Guarded runs into a fault."""

import torch

from torchmend import Guard


def into(fault, *, loss=False, steps=(False, False, True), **options):
    """Train, the last step into the fault; return model and guard, which is detached."""
    model = fault.model()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    options |= {"loss": fault.loss} if loss else {}
    torch.manual_seed(1)
    with Guard(model, optimizer, **options) as guard:
        for bad in steps:
            if bad:
                fault.spoil(model)
            batch = fault.batch(bad)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16, enabled=fault.half):
                made = fault.loss(model, batch)
            guard.observe(made, batch)
            made.backward()
            optimizer.step()
    return model, guard


def incident_of(guard):
    """Return the one incident that a run had."""
    (found,) = [each.incident for each in guard.events.decisions if each.incident is not None]
    return found
