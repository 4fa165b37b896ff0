"""The policy's memory as plain values, and back."""

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torchmend.live.guard.policy import PolicyState
from torchmend.live.guard.running import Learned, Running


def plain_policy_state(state: PolicyState) -> dict[str, Any]:
    """Return a state as plain values; None for what is not known yet, which a checkpoint would call damaged as NaN."""
    plain = asdict(state)
    plain["learned"] = {name: None if math.isnan(value) else value for name, value in plain["learned"].items()}
    return plain


def restored_policy_state(state: Mapping[str, Any]) -> PolicyState:
    """Make a state from what `plain_policy_state` made of one; lists may stand in for tuples, as after JSON."""
    return PolicyState(
        refusals=tuple((int(step), str(origin)) for step, origin in state["refusals"]),
        back_offs=tuple(map(int, state["back_offs"])),
        norms=Running(**state["norms"]),
        losses=Running(**state["losses"]),
        outlier=int(state["outlier"]),
        outliers=tuple(map(int, state.get("outliers", ()))),
        in_a_row=int(state.get("in_a_row", 0)),
        learned=Learned(**{name: each for name, each in state.get("learned", {}).items() if each is not None}),
        alarmed=int(state.get("alarmed", -1)),
        widened=int(state.get("widened", -1)),
        happened=int(state.get("happened", 0)),
    )


class Memory:
    """What the policy remembers of each optimizer; goes into snapshots with the weights, and comes back with them.

    Args:
        count: How many optimizers there are.
    """

    def __init__(self, count: int) -> None:
        self.states = [PolicyState() for _ in range(count)]

    def state_dict(self) -> dict[str, Any]:
        """Return the states, which never change themselves."""
        return {"states": tuple(self.states)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from other states."""
        self.states = list(state["states"])

    def put_on_probation(self, step: int) -> None:
        """Drop what was counted against steps that are undone; watch the loss for a while."""
        self.states = [each.after_return(step) for each in self.states]
