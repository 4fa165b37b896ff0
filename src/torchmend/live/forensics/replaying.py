"""`torchmend.replay`: a capsule's batch run again, here, as it was and in wider types."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from torchmend.facts.errors import UserError
from torchmend.live.forensics.batches import reachable
from torchmend.live.forensics.calls import Autocast, Call
from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.localising import localise, said
from torchmend.live.forensics.reading import Capsule, read_capsule
from torchmend.live.forensics.rerun import Loss, Rerun
from torchmend.live.forensics.settings import as_set
from torchmend.live.forensics.untouched import Untouched
from torchmend.live.forensics.widening import Widened
from torchmend.live.rerunning import rerunning
from torchmend.live.rng import rng_kept

NOT_HERE = "it does not happen"

WIDER = ("float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a replay showed.

    Args:
        then: What was found when the capsule was written.
        now: What is found here.
        wider: The same in "float32" and "float64", without autocast.
        with_loss: Whether the loss code was run.
    """

    then: Localisation
    now: Localisation
    wider: dict[str, Localisation]
    with_loss: bool

    @property
    def reproduced(self) -> bool:
        """Whether the same kind of place failed, in the same module, and in the same pass as far as that was known."""
        same_pass = self.then.pass_unknown or self.now.pass_unknown or self.then.backward == self.now.backward
        return same_pass and _place(self.then) == _place(self.now)

    @property
    def by_precision(self) -> bool | None:
        """Whether precision is the cause: in float64 it does not fail, casts by hand widened as well.

        None where it does not fail here, or only in code that was not run, or where the code insists on its types.
        """
        if not self.now.is_known or (self.now.cause is Cause.LOSS and not self.with_loss):
            return None
        if self.wider["float64"].cause is Cause.UNKNOWN:
            return None
        return self.wider["float64"].cause is Cause.NOT_AGAIN

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            "reproduced": self.reproduced,
            "by_precision": self.by_precision,
            "then": self.then.data(),
            "now": self.now.data(),
            **{name: found.data() for name, found in self.wider.items()},
            "conclusion": self.conclusion,
        }

    def __str__(self) -> str:
        """Say it in some lines."""
        lines = [f"then     {self.then.sentence}", f"here     {_said(self.now)}"]
        lines += [f"{key:<9}{text}" for key, text in (("how", self.now.how), ("examples", self.now.which)) if text]
        if self.with_loss or self.now.cause is not Cause.LOSS:
            lines += [f"{name:<9}{_said(found)}" for name, found in self.wider.items()]
        return "\n".join([*lines, f"so       {self.conclusion}"])

    @property
    def conclusion(self) -> str:
        """What follows, in a sentence."""
        if not self.reproduced:
            return (
                "not reproduced: other code (a fix that works), another torch, another device, "
                "or something that the capsule does not hold"
            )
        if self.by_precision is None:
            if self.now.cause is Cause.LOSS:
                return "reproduced; give the loss (--loss) to see where in it, and whether precision is the cause"
            return f"reproduced; in wider types the code does not run ({self.wider['float64'].note})"
        if self.by_precision:
            enough = "float32" if self.wider["float32"].cause is Cause.NOT_AGAIN else "float64"
            return f"reproduced; precision is the cause: in {enough} it does not happen"
        return "reproduced; precision is not the cause: it happens in float64 as well"


def _said(found: Localisation) -> str:
    return NOT_HERE if found.cause is Cause.NOT_AGAIN else found.note or found.sentence


def _place(found: Localisation) -> tuple[Cause, str]:
    return found.cause, "" if found.cause is Cause.INPUT else found.module  # the batch has other names with a loss


def replay(
    capsule: str | Path,
    model: nn.Module | Sequence[nn.Module],
    loss: Loss | None = None,
    *,
    checkpoint: str | Path | None = None,
    device: str | torch.device = "cpu",
) -> Replay:
    """Run a capsule's batch again, say where it fails, and whether it does in float32 and float64.

    Args:
        capsule: Its folder. Reading it runs nothing.
        model: Made as it was trained, with any weights: the capsule's are loaded into it.
        loss: A function of the model and the batch that returns the loss, as for `Guard(loss=)`. Without it the models'
            calls are run again, and the gradients that came from behind them then.
        checkpoint: Where weights come from that the capsule does not hold.
        device: Where to run.

    Raises:
        FileError: The capsule is damaged.
        UserError: It does not fit the model, or it is no capsule.
    """
    read = read_capsule(Path(capsule))
    if not read.record["calls"]:
        raise UserError(f"{capsule} holds no call of the model, so that nothing can be run again.")
    where = _usable(device)
    models = [*model] if isinstance(model, Sequence) else [model]
    for each in models:
        each.to(where)
    read.load_into(models, Path(checkpoint) if checkpoint is not None else None)
    finite = read.record["incident"].get("loss_finite")
    with as_set(read.record["settings"]):
        rerun = rerun_of(read, models, where, loss)
        try:
            now = _localised(rerun, finite=finite)
        except Exception as error:  # the user's code may raise anything
            raise UserError(
                f"{capsule} cannot be run here: the code raised {said(error)}. Make the model and the loss as they "
                "were in the run; a capsule keeps named tuples as tuples, and other objects as dicts of their fields."
            ) from error
        wider = {name: _in_wider(read, models, where, loss, name, finite=finite) for name in WIDER}
    return Replay(then=read.found, now=now, wider=wider, with_loss=loss is not None)


def _usable(device: str | torch.device) -> torch.device:
    """Return a device that is here; raise UserError for another."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"There is no device {str(device)!r} here ({said(error)}). Give cpu, or one that is.") from None
    return found


def rerun_of(read: Capsule, models: list[nn.Module], device: torch.device, loss: Loss | None) -> Rerun:
    """Return the batch of a capsule, to be run on models that it was loaded into."""
    before = [(each, each.detach().clone()) for model in models for each in model.buffers()]

    def restore() -> None:
        for buffer, kept in before:
            buffer.data.copy_(kept)

    return Rerun(
        models=models,
        calls=read.calls(models, device),
        restore=restore,
        loss=loss,
        batch=read.batch(device) if loss is not None else None,
        scale=float(read.record["scale"]),
    )


def _localised(rerun: Rerun, *, finite: bool | None) -> Localisation:
    with ExitStack() as stack:
        stack.enter_context(rerunning())
        stack.enter_context(rng_kept())
        batch = [rerun.batch, *(call.leaves for call in rerun.calls)]
        kept = stack.enter_context(Untouched(rerun.models, reachable(batch)))

        def restore() -> None:
            rerun.restore()
            kept.restore()

        return localise(replace(rerun, restore=restore), loss_finite=finite)


def _in_wider(
    read: Capsule, models: list[nn.Module], device: torch.device, loss: Loss | None, name: str, *, finite: bool | None
) -> Localisation:
    kind: torch.dtype = getattr(torch, name)
    try:
        with Widened(kind):
            return _localised(_wider(read, models, device, loss, kind), finite=finite)
    except Exception as error:  # code that insists on a type raises what it likes
        return Localisation(cause=Cause.UNKNOWN, note=f"{type(error).__name__}: {error}")


def _wider(read: Capsule, models: list[nn.Module], device: torch.device, loss: Loss | None, kind: torch.dtype) -> Rerun:
    """Return the same batch in a wider type without autocast, on copies of the models."""
    wide = [copy.deepcopy(model).to(kind) for model in models]
    rerun = rerun_of(read, wide, device, loss)
    return replace(rerun, calls=[_widened(each, kind) for each in rerun.calls], batch=_cast(rerun.batch, kind))


def _widened(call: Call, kind: torch.dtype) -> Call:
    return replace(
        call.with_inputs(*_cast(call.inputs, kind)),
        autocast=Autocast(device=call.autocast.device),
        out_gradients=_cast(call.out_gradients, kind),
    )


def _cast(tree: Any, kind: torch.dtype) -> Any:
    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(kind) if tensor.is_floating_point() else tensor

    return tree_map_only(Tensor, cast, tree)
