"""The damages to live models, and the poison in one of the batches that statistics are measured on."""

from collections.abc import Iterator

from damage import LOSSES, Damage, channels_lost, whole_lost
from torch import Tensor

DRAWS = 3
SHARES = {"one channel": 0.0, "10 %": 0.1, "30 %": 0.3, "50 %": 0.5}
EVERYTHING = "both, every layer whole"
POISONED = "in one batch of"
"""Told of every damage with a poisoned batch."""

POISONED_AT = 3
"""Which batch."""


def live_damages(norms: list[str]) -> Iterator[Damage]:
    """Give every damage to a network with these normalisation layers, in the order of the table."""
    both = LOSSES["both"]
    for at in range(DRAWS):
        norm = norms[at * len(norms) // DRAWS]
        yield Damage("both, one channel", norm, False, channels_lost([norm], both, 0.0, at))
    for where, share in SHARES.items():
        for seed in range(DRAWS):
            lost = channels_lost(norms, both, share, seed)
            yield Damage(f"both, {where} of every layer", f"seed {seed}", False, lost)
    for loss in ("both", "mean", "variance"):
        for norm in norms:
            yield Damage(f"{loss}, one whole layer", norm, True, whole_lost([norm], LOSSES[loss]))
        yield Damage(f"{loss}, every layer whole", "all", True, whole_lost(norms, LOSSES[loss]))


def poisoned(batches: list[Tensor], value: float) -> list[Tensor]:
    """Return the batches, with a value at one place of one of them."""
    hurt = batches[POISONED_AT].clone()
    hurt.view(-1)[0] = value
    return [hurt if at == POISONED_AT else batch for at, batch in enumerate(batches)]


POISONS = {"an Inf": float("inf"), "a NaN": float("nan"), "1e20": 1e20}
