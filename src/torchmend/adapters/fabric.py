"""The guard in loops of Lightning Fabric: one call of `guarded` after `fabric.setup`."""

import functools
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from torchmend import Guard
from torchmend.adapters.shared import tell, tell_before

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def guarded(fabric: "Fabric", model: nn.Module, optimizer: Optimizer, **options: Any) -> Guard:
    """Guard a loop of Fabric.

    Losses are told by `fabric.backward`. The guard is state that `fabric.save` and `fabric.load` take:
    `fabric.save(path, {"model": model, "optimizer": optimizer, "guard": guard})`.

    Args:
        fabric: Whose `backward` is called.
        model: As `fabric.setup` returned it.
        optimizer: The same.
        options: `scheduler`, `ema`, and fields of `torchmend.GuardOptions`, by name.

    Returns:
        The guard.

    Raises:
        UserError: What is passed cannot be guarded.
    """
    guard = Guard(
        getattr(model, "_forward_module", model),  # DistributedDataParallel's wrapper, which `module` is without
        getattr(optimizer, "optimizer", optimizer),
        scaler=getattr(fabric.strategy.precision, "scaler", None),
        **options,
    )
    tell_before(fabric, "backward", functools.partial(tell, guard))
    return guard
