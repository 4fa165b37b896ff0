"""Which sensors there are, and what each costs."""

from collections.abc import Collection
from enum import StrEnum

from torchmend.facts.errors import UserError


class Cost(StrEnum):
    """When a sensor looks."""

    ONCE = "once"
    """Before the first step, and after a load."""
    STEP = "step"
    """At every step, within its one read from the device."""
    HOST = "host"
    """At every step, from what the host knows already."""
    SAMPLED = "sampled"
    """At one step of `sample_every`, within its one read from the device."""
    PERIODIC = "periodic"
    """At one step of `check_every` and where something is suspected, with reads of its own."""


class Sensor(StrEnum):
    """What the guard looks at; all are on by default."""

    SETUP = "setup"
    """Settings and states that will go wrong later."""
    GRADIENTS = "gradients"
    """The 2-norm of all gradients; what it accuses is confirmed element by element."""
    LOSS = "loss"
    """The loss that `observe` was told."""
    BUFFERS = "buffers"
    """Floating-point buffers that the forward pass wrote: finite, variances not below zero, and by what they grew."""
    SCALER = "scaler"
    """How often the GradScaler refuses."""
    SPIKES = "spikes"
    """Loss, gradient norm, running variances and updates out of all proportion, of which two must agree."""
    UPDATES = "updates"
    """Updates larger than their matrix, and updates of zero though gradients are not."""
    HEADROOM = "headroom"
    """How many powers of two lie between activations in float16 and its largest value."""
    CALIBRATION = "calibration"
    """How far running statistics lie from those of the batches."""
    STATE = "state"
    """Weights, statistics and optimizer state: every element finite, and the doctor's other rules."""
    AVERAGES = "averages"
    """Every element of the averaged models that the guard was given."""


COSTS: dict[Sensor, Cost] = {
    Sensor.SETUP: Cost.ONCE,
    Sensor.GRADIENTS: Cost.STEP,
    Sensor.LOSS: Cost.STEP,
    Sensor.BUFFERS: Cost.STEP,
    Sensor.SCALER: Cost.HOST,
    Sensor.SPIKES: Cost.HOST,
    Sensor.UPDATES: Cost.SAMPLED,
    Sensor.HEADROOM: Cost.SAMPLED,
    Sensor.CALIBRATION: Cost.SAMPLED,
    Sensor.STATE: Cost.PERIODIC,
    Sensor.AVERAGES: Cost.PERIODIC,
}
"""What each sensor costs."""

ALL = frozenset(Sensor)


def chosen(names: Collection[Sensor | str]) -> frozenset[Sensor]:
    """Return sensors by their names; raise UserError for one that there is not, with those that there are."""
    try:
        return frozenset(map(Sensor, names))
    except ValueError as error:
        legal = ", ".join(each.value for each in Sensor)
        raise UserError(f"{error}. The sensors are {legal}.") from None
