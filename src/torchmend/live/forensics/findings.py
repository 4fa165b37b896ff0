"""What a localisation found: where it began, in which direction, with which examples."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

FAR_LARGER = 1e3
"""Times the largest number in other examples: what makes one stand out."""


class Cause(StrEnum):
    """Where values that are not finite first came from."""

    INPUT = "input"
    """They were in the batch."""
    PARAMETER = "parameter"
    """They were in a weight before the step."""
    BUFFER = "buffer"
    """They were in a buffer before the step."""
    OUTSIDE = "outside"
    """They were in a tensor that neither the model nor the batch holds, such as a constant."""
    MODULE = "module"
    """A module of the model made them out of finite inputs."""
    LOSS = "loss"
    """Code after the model did: the loss, or what prepares it."""
    NOT_AGAIN = "not again"
    """The batch was run again from the same state, and nothing was wrong."""
    UNKNOWN = "unknown"
    """It could not be run again, or not far enough to tell; the note says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """Where a failure comes from.

    Args:
        cause: The kind of place.
        module: For MODULE its name; for LOSS the last module before, or the loss's own module where it is one; for
            INPUT, PARAMETER and BUFFER the name of the tensor.
        kind: The module's class; empty where there is none.
        also: Its other names, if it is shared, with commas.
        call: Which of its calls in the step failed, from 1.
        backward: Whether it was made in the backward pass.
        operation: torch's name of the operation ("div"); in a backward pass that whose slope was worked out. Empty if
            unknown.
        dtype: In which it was made ("float16"); empty if unknown.
        value: "NaN", "Inf" or "-Inf".
        parameter: The parameter that took part, by name: names a child that is never called. Empty if none did.
        line: The line of the user's code ("model.py:12"); empty if unknown.
        samples: The smallest part of the batch that still shows it, as places in its first dimension; empty if no part
            was looked for.
        of: How many examples the batch has; 0 if unknown.
        note: What else has to be said.
        largest: The largest magnitude in the numbers of those examples; 0.0 if it was not looked at.
        usual: The largest in all others.
        pass_unknown: Whether it was in the loss code, whose value was not told, so that the pass is not known.
        exchanges: Whether ranks exchange values in the step, so that no part of the batch could be tried alone.
    """

    cause: Cause
    module: str = ""
    kind: str = ""
    also: str = ""
    call: int = 1
    backward: bool = False
    operation: str = ""
    dtype: str = ""
    value: str = "NaN"
    parameter: str = ""
    line: str = ""
    samples: tuple[int, ...] = ()
    of: int = 0
    note: str = ""
    largest: float = 0.0
    usual: float = 0.0
    pass_unknown: bool = False
    exchanges: bool = False

    @property
    def is_known(self) -> bool:
        """Whether a place was found."""
        return self.cause not in (Cause.NOT_AGAIN, Cause.UNKNOWN)

    @property
    def is_out_of_range(self) -> bool:
        """Whether numbers in the guilty examples are far larger than in any other."""
        return self.largest >= FAR_LARGER * self.usual > 0

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self), "cause": self.cause.value, "samples": list(self.samples), "sentence": self.sentence}

    @property
    def sentence(self) -> str:
        """Say where, in one sentence."""
        made = f"{self.value} in the {'backward' if self.backward else 'forward'} pass"
        made = f"{self.value} (guard.observe(loss) would tell in which pass)" if self.pass_unknown else made
        also = f", also {self.also}" if self.also else ""
        call = f", call {self.call} of the step" if self.call > 1 else ""
        where = f"{self.module} ({self.kind}{also}{call})" if self.kind else self.module
        match self.cause:
            case Cause.MODULE:
                return f"module {where} produced {made} from finite inputs"
            case Cause.LOSS if self.kind:
                return f"the loss code, in {self.kind}, produced {made}"
            case Cause.LOSS:
                after = f" after module {self.module}" if self.module else ""
                return f"the loss code{after} produced {made}"
            case Cause.INPUT:
                return f"the batch itself holds {self.value}: {self.module}"
            case Cause.PARAMETER | Cause.BUFFER:
                return f"{self.cause.value} {self.module} held {self.value} before the step"
            case Cause.OUTSIDE:
                return f"a tensor that is neither the model's nor the batch's holds {self.value}"
            case Cause.NOT_AGAIN:
                return "it did not happen again: a race, the hardware, or state outside of model and batch"
            case _:
                return "where it began is not known"

    @property
    def how(self) -> str:
        """Say by which operation, and in which line; empty if neither is known."""
        operation = f"{self.operation} in {self.dtype}" if self.operation and self.dtype else self.operation
        operation = f"the backward of {operation}" if self.backward and self.operation else operation
        using = f" with {self.parameter}" if self.parameter else ""
        at = f" at {self.line}" if self.line else ""
        return f"{operation}{using}{at}".strip() if operation or at else ""

    @property
    def which(self) -> str:
        """Say which examples it takes; empty if that was not looked for."""
        if not self.samples:
            return "parts of the batch were not tried: the ranks exchange values in the step" if self.exchanges else ""
        if len(self.samples) == self.of and self.cause is Cause.INPUT:
            return f"all {self.of}"
        if len(self.samples) == self.of:
            return f"the whole batch of {self.of}; no smaller part shows it" if self.of > 1 else "the only one"
        listed = ", ".join(map(str, self.samples[:8])) + (", ..." if len(self.samples) > 8 else "")
        far = f", whose largest number is {self.largest:g}; in the others it is {self.usual:.3g}"
        return f"{listed} of {self.of} (counted from 0){far if self.is_out_of_range else ''}"
