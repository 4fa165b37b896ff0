"""The guard in loops of Accelerate: one call of `guarded`, before or after `prepare`."""

import functools
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchmend import Guard, UserError
from torchmend.adapters.shared import needing, tell, tell_before

with needing("accelerate"):
    from accelerate import Accelerator  # type: ignore[import-untyped]
    from accelerate.optimizer import AcceleratedOptimizer  # type: ignore[import-untyped]
    from accelerate.scheduler import AcceleratedScheduler  # type: ignore[import-untyped]


def guarded(
    accelerator: Accelerator,
    model: nn.Module | list[nn.Module],
    optimizer: Optimizer | list[Optimizer],
    *,
    scheduler: Any = None,
    **options: Any,
) -> Guard:
    """Guard what an Accelerator trains.

    Losses are told by `accelerator.backward`; the guard's memory goes into `save_state`, and comes back with
    `load_state`.

    Args:
        accelerator: Whose `backward` is called.
        model: One or several; before or after `prepare`, but after it where several processes train.
        optimizer: The same.
        scheduler: The same; those that step with the optimizer are held with it.
        options: An averaged model as `ema`, and fields of `torchmend.GuardOptions`, by name.

    Returns:
        The guard.

    Raises:
        UserError: What is passed cannot be guarded.
    """
    models = _listed(model)
    kind = accelerator.distributed_type.value
    if kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        raise UserError(f"The guard does not support {kind} yet: its parameters are not where a step could be undone.")
    if accelerator.num_processes > 1 and not all(
        isinstance(each, nn.parallel.DistributedDataParallel) for each in models
    ):
        raise UserError(
            "Several processes train, and this model is not wrapped yet. Pass what accelerator.prepare returns."
        )
    optimizers = [each.optimizer if isinstance(each, AcceleratedOptimizer) else each for each in _listed(optimizer)]
    schedulers = [each.scheduler if isinstance(each, AcceleratedScheduler) else each for each in _listed(scheduler)]
    guard = Guard(models, optimizers, scaler=accelerator.scaler, scheduler=schedulers, **options)
    accelerator.register_for_checkpointing(guard)
    tell_before(accelerator, "backward", functools.partial(tell, guard))
    return guard


def _listed(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]
