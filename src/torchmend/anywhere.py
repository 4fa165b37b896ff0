"""One call for every kind of source: a file, a state dict or checkpoint in memory, a model.

Nothing here needs PyTorch unless a live object is given.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.facts.errors import FileError, UserError
from torchmend.facts.findings import Diagnosis
from torchmend.repairs.donors import Donor
from torchmend.repairs.planning import Strategy
from torchmend.rules.roles import main_container

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from torchmend.live.repairing import RepairResult

_ACCEPTED = "the path of a checkpoint, a state dict or checkpoint dict, or a torch.nn.Module"


def diagnose(
    source: "str | os.PathLike[str] | Mapping[Any, Any] | nn.Module",
    optimizer: "Optimizer | Mapping[str, Any] | None" = None,
    progress: ScanProgress | None = None,
    *,
    verify_checksums: bool = False,
) -> Diagnosis:
    """Diagnose a checkpoint file, a state dict or checkpoint dict, or a model, all by the same rules.

    Args:
        source: A path, a dictionary (nested as checkpoints are), or a module.
        optimizer: For live sources, an optimizer or its state dict to judge too.
        progress: Told how far the scan is.
        verify_checksums: For files, whether to compare every checksum with its bytes.

    Returns:
        The diagnosis. A file that cannot be read gives one with a TM9xx finding.

    Raises:
        TypeError: The source is of another kind.
        UserError: An optimizer is given beside a file, which has its own.
        SourceChangedError: The file was written to while it was being read.
    """
    if isinstance(source, str | os.PathLike):
        if optimizer is not None:
            raise UserError(
                "A checkpoint file holds its own optimizer state. Pass an optimizer with a live model only."
            )
        return diagnose_file(Path(source), progress, verify_checksums=verify_checksums)
    if not _is_live(source):
        raise TypeError(f"Cannot diagnose a {type(source).__name__}. Pass {_ACCEPTED}.")
    if verify_checksums:
        raise UserError("Only files have checksums. Leave verify_checksums out for a live object.")
    from torchmend.live.diagnosing import diagnose_live

    return diagnose_live(source, optimizer, progress)


def repair(
    source: "Mapping[Any, Any] | nn.Module",
    optimizer: "Optimizer | Mapping[str, Any] | None" = None,
    *,
    donors: "Sequence[str | os.PathLike[str] | Mapping[Any, Any] | nn.Module]" = (),
    strategy: Strategy = Strategy.LADDER,
    dry_run: bool = False,
    metadata: bool = False,
    reset_optimizer: bool = False,
    evaluate: "Callable[[], float] | None" = None,
) -> "RepairResult":
    """Repair a model, state dict or checkpoint dict in place; only damaged elements are written.

    Safe between forward and backward: autograd does not see the writes. What cannot be repaired is listed
    under `plan.refused` and stays as it is.

    Args:
        source: A module, or a dictionary (nested as checkpoints are).
        optimizer: An optimizer, or its state dict, to repair too.
        donors: Healthy models, dictionaries or paths of checkpoints of the same model, tried in order.
        strategy: For normalisation statistics.
        dry_run: Plan only.
        metadata: Whether numbers beside the model (learning rates, metrics) are repaired too.
        reset_optimizer: Whether all optimizer state goes to where a fresh optimizer starts.
        evaluate: Gives a metric of the object as it is; called before and after, for the result to tell both.

    Raises:
        TypeError: The source, a donor or the optimizer is of another kind.
        UserError: The source is a path, or a donor cannot serve.
    """
    if isinstance(source, str | os.PathLike):
        raise UserError(f"{os.fspath(source)} is a file. Use torchmend.fix(path), which leaves the source as it is.")
    if not _is_live(source):
        raise TypeError(f"Cannot repair a {type(source).__name__}. Pass {_ACCEPTED.partition(', ')[2]}.")
    if isinstance(donors, str | os.PathLike | Mapping) or _is_live(donors):
        raise TypeError(f"Got a {type(donors).__name__} as donors. Pass a list of donors, each {_ACCEPTED}.")
    from torchmend.live.repairing import repair_live

    with _opened(donors) as givers:
        return repair_live(
            source,
            optimizer,
            donors=givers,
            strategy=strategy,
            dry_run=dry_run,
            metadata=metadata,
            reset_optimizer=reset_optimizer,
            evaluate=evaluate,
        )


def _is_live(source: object) -> bool:
    """Return whether it is a dictionary or a module, without importing torch."""
    names = {f"{each.__module__}.{each.__qualname__}" for each in type(source).__mro__}
    return isinstance(source, Mapping) or "torch.nn.modules.module.Module" in names


@contextmanager
def _opened(donors: Sequence[Any]) -> Iterator[list[Any]]:
    """Open the donors that are files, and close them again."""
    with ExitStack() as stack:
        yield [_open(donor, stack) if isinstance(donor, str | os.PathLike) else _checked(donor) for donor in donors]


def _open(donor: str | os.PathLike[str], stack: ExitStack) -> Donor:
    try:
        source = stack.enter_context(FileSource(Path(donor)))
    except FileError as error:
        raise UserError(f"{os.fspath(donor)} cannot be a donor: {error}") from None
    return Donor(name=os.fspath(donor), source=source, main=main_container(source.refs))


def _checked(donor: object) -> object:
    if not _is_live(donor):
        raise TypeError(f"A {type(donor).__name__} cannot be a donor. Pass {_ACCEPTED}.")
    return donor
