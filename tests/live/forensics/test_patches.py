"""Operations that are kept away from the edge of their domain, as a change that is tried."""

import pytest
import torch

from live.forensics.faults import Fault, no_norm_net, with_row
from live.forensics.runs import incident_of, into


def loss_with(inverse):
    def loss(model, batch):
        return (model(batch).sum(1) * inverse(batch.square().sum(1))).mean()

    return loss


INVERSES = {
    "one divided by it": lambda value: 1 / value,
    "reciprocal": torch.reciprocal,
    "a quotient": lambda value: torch.ones_like(value) / value,
}


@pytest.mark.parametrize("inverse", INVERSES.values(), ids=INVERSES)
def test_a_divisor_is_kept_from_zero_however_it_is_written(inverse):
    fault = Fault(no_norm_net, with_row(0.0), loss_with(inverse), "loss", "2")
    *_, last = incident_of(into(fault, loss=True)[1]).remedies
    assert (last.kind.value, last.helped) == ("operation", True)
