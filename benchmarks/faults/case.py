"""What a case of the fault bench is: data, and a function that makes its training."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.faults.places import Truth
from benchmarks.faults.training import Act, Training

Make = Callable[[int, bool], Training]
"""Makes the training of a seed, with the fault in it or not; both are equal up to the onset."""


class Kind(StrEnum):
    """The classes of faults, by what they ask for."""

    BENIGN = "benign"
    """Looks bad and does no harm: log it, and do not interfere."""
    TRANSIENT = "transient"
    """One bad step: leave it out, exactly."""
    LATENT = "latent poison"
    """State that is not read in training is damaged: undo all state of the step."""
    RUNAWAY = "runaway"
    """Finite at first, then ever faster: act before Inf, go back, change the learning rate or the precision."""
    SILENT = "silent bias"
    """Everything stays finite, or nothing shows before an evaluation: warn, repair or stop."""
    STRUCTURAL = "structural"
    """In every step: stop with the origin named, or warn; never loop."""
    DURABLE = "durable"
    """Damage that reaches the disk: gate where it is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One reported failure, rebuilt in our own code.

    Args:
        name: As in the page and for `--cases`.
        kind: Its class.
        what: What happens, in one or two plain sentences.
        reported: Where users met it, `repository#number`.
        onset: The first step at which the faulty run differs from its twin.
        required: One of these has to be done; for a benign case, all that may be done besides logging and warning.
        make: Makes the training.
        causes: For kinds where a warning or a stop counts: codes or words, of which one must stand in what was said.
        truth: Where the fault is; `truths.py` has it for each case.
        loses_because: Where torchmend on its defaults does not reach the aim: why, in one plain sentence.
    """

    name: str
    kind: Kind
    what: str
    reported: str
    onset: int
    required: frozenset[Act]
    make: Make
    causes: tuple[str, ...] = ()
    truth: Truth = Truth(because="nobody has said where it is")
    loses_because: str = ""
