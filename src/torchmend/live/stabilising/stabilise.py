"""Change a model and its optimizer so that mixed precision no longer overflows."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.errors import UserError
from torchmend.live.half import LEAST_BITS
from torchmend.live.recalibrating.batches import Forward
from torchmend.live.recalibrating.batches import run as run_batch
from torchmend.live.stabilising.changes import Stabilised, together
from torchmend.live.stabilising.choosing import Wanted, inside
from torchmend.live.stabilising.float32 import float32_by_structure, float32_where_seen, in_float32
from torchmend.live.stabilising.measuring import measure_cost
from torchmend.live.stabilising.settings import steady_norms, wider_eps


def stabilise(
    model: nn.Module,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    *,
    modules: Wanted | Iterable[Wanted] | None = None,
    batch: Any = None,
    forward: Forward | None = None,
    norms: bool = True,
    momentum: float | None = 0.01,
    eps: float = 1e-3,
    headroom: float = LEAST_BITS,
    cast_back: bool = False,
    measure: bool = False,
    loss: Callable[[Any], Tensor] | None = None,
) -> Stabilised:
    """Change a model, and its optimizer, so that mixed precision no longer overflows.

    Modules that come near float16's largest number, 65504, compute in float32 inside autocast. BatchNorm gets steady
    settings. An optimizer's epsilon that is zero in the type of its parameters becomes 1e-4. Names, `state_dict` and
    weights stay as they are. Doing it twice changes nothing more.

    Copies and pickles of the model keep the settings, and compute as before: stabilise them too, with
    `modules=handle.modules`.

    Args:
        model: On any device; wrappers of DDP and `torch.compile` may be around it.
        optimizer: One or several.
        modules: What goes into float32: names, patterns such as `"blocks.*.norm"`, classes. Without them, what one
            pass over `batch` shows to come near the limit; without a batch, what the structure suggests: Fourier
            transforms and normalisations in hand-written code, attention, linear layers of 4096 inputs and more.
        batch: One batch, at best one that overflows: a tensor, a tuple whose first element is the input, or a
            dictionary of keywords. The model is run on it in its own modes, without gradients and inside autocast to
            float16, unless the caller's autocast is on; afterwards buffers, modes and generators are as before.
        forward: Calls the model with the batch in another way: `forward(model, batch)`.
        norms: Whether to set momentum and eps of BatchNorm layers.
        momentum: Of BatchNorm, from 0 to 1; None averages all batches alike.
        eps: Of BatchNorm, above 0.
        headroom: Of modules with fewer bits between what they compute and 65504 on the batch; 0 takes only those that
            overflow.
        cast_back: Cast what modules in float32 put out to autocast's type. Without it outputs stay in float32, so that
            large ones stay finite; code that writes them into a tensor of half precision may need it.
        measure: Measure what it costs, on the batch.
        loss: Of the model's output, for the measurement; a mean square by default.

    Returns:
        What was changed and why, what could not be helped, the cost; undone by `undo` or as a context.

    Raises:
        TypeError: The model is no module.
        UserError: A module is not there or cannot be changed from outside, a value is out of range, or the model is
            TorchScript. Nothing is changed then.
    """
    inner = inside(model)
    if measure and batch is None:
        raise UserError("measure=True runs the model. Pass batch= too.")
    if not headroom >= 0:
        raise UserError(f"headroom is {headroom}. Pass a number of bits from 0 up; the default is {LEAST_BITS:g}.")
    run = partial(forward or run_batch, inner, batch)
    optimizers = list(optimizer or ()) if isinstance(optimizer, Sequence | None) else [optimizer]
    done: list[Stabilised] = []
    try:
        if norms:
            done.append(steady_norms(inner, momentum, eps))
        done.append(wider_eps(optimizers))
        if modules is not None:
            done.append(in_float32(inner, modules, cast_back=cast_back))
        elif batch is not None:
            done.append(float32_where_seen(inner, run, headroom, cast_back=cast_back))
        else:
            done.append(float32_by_structure(inner, cast_back=cast_back))
        handle = together(done)
        if measure:
            handle.cost = measure_cost(inner, run, handle, loss)
    except BaseException:
        together(done).undo()
        raise
    return handle
