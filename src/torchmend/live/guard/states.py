"""The policy's memory as plain values, and back."""

from collections.abc import Mapping
from typing import Any

from torchmend.live.guard.policy import PolicyState, Running


def restored_policy_state(state: Mapping[str, Any]) -> PolicyState:
    """Make a state from what `dataclasses.asdict` made of one; lists may stand in for tuples, as after JSON."""
    return PolicyState(
        refusals=tuple((int(step), str(origin)) for step, origin in state["refusals"]),
        back_offs=tuple(map(int, state["back_offs"])),
        norms=Running(**state["norms"]),
        losses=Running(**state["losses"]),
        outlier=int(state["outlier"]),
        outliers=tuple(map(int, state.get("outliers", ()))),
        in_a_row=int(state.get("in_a_row", 0)),
    )
