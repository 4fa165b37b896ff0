"""What happens after a step: the periodic check, snapshots, and the way back to one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from torchmend.facts.findings import Finding
from torchmend.live.guard.decisions import Action, Decision
from torchmend.live.guard.health import (
    COMMON,
    MOST_SHOWN,
    Health,
    Patients,
    check,
    infinite_buffers,
    not_finite_buffers,
    still_damaged,
)
from torchmend.live.guard.options import GuardOptions
from torchmend.live.guard.ranks import apart, by_rank, gathered, named, take_from
from torchmend.live.guard.rates import lower
from torchmend.live.guard.ring import Snapshots
from torchmend.live.guard.sensing.catalogue import Sensor
from torchmend.live.ownership import averaged_model

logger = logging.getLogger("torchmend.guard")

Announce = Callable[[Decision], Decision]
"""Tells a decision, and returns the one that is carried out; raises for one that stops the run."""

LEAST_GAP = 10
"""Steps between two checks that only a suspicion asks for."""


class Recovery:
    """Checks what lasts, keeps snapshots of what was seen to be healthy, and goes back to them.

    Args:
        models: As the guard was given them.
        optimizers: The same.
        schedulers: The same.
        averages: The same.
        others: What else goes back with them: anything with a state dict, or None.
        options: Of the guard.
        announce: Told every decision.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizers: Sequence[Optimizer],
        schedulers: Sequence[Any],
        averages: Sequence[Any],
        others: Sequence[Any],
        options: GuardOptions,
        announce: Announce,
    ) -> None:
        self._models, self._optimizers, self._schedulers, self._averages = models, optimizers, schedulers, averages
        self._options = options
        self._announce = announce
        self._acts = not options.observe_only
        self._patients = Patients(
            models=models if Sensor.STATE in options.sensors else (),
            optimizers=optimizers if Sensor.STATE in options.sensors else (),
            averages=averages if Sensor.AVERAGES in options.sensors else (),
            legal=not_finite_buffers([*models, *map(averaged_model, averages)]),
        )
        self._suspects = self._doubts = self._has_begun = False
        self._checked = -LEAST_GAP
        self._snapshots: Snapshots | None = None
        if options.ring is not None and self._acts:
            kept = [each for each in (*others, *schedulers, *averages) if each is not None]
            self._keep(Snapshots(options.ring, models, optimizers, kept))

    def _keep(self, snapshots: Snapshots) -> None:
        if snapshots.fits:
            self._snapshots = snapshots
            logger.info("The ring of snapshots will take %.1f MB.", snapshots.nbytes / 1e6)
        else:
            logger.warning(
                "No snapshots are kept to go back to: they would take %.1f GB. ring=Ring() keeps them all the same.",
                snapshots.nbytes / 1e9,
            )

    def suspect(self) -> None:
        """Have everything checked when this step has ended."""
        self._suspects = True

    def doubt(self) -> None:
        """Keep no snapshot of this step: weights may be finite and far off."""
        self._doubts = True

    def forget(self) -> None:
        """Drop the snapshots, after another state was loaded."""
        if self._snapshots is not None:
            self._snapshots.forget()

    def can_go_back(self, step: int) -> bool:
        """Return whether there is a snapshot to go back to."""
        return self._snapshots is not None and self._snapshots.newest(step) is not None

    def after_step(self, step: int) -> None:
        """Check if it is time to, or if something is suspected.

        Args:
            step: How many steps have come to their end.
        """
        every = self._options.check_every
        if not every:
            return
        if not (self._has_begun or self._doubts):
            self._has_begun = True
            made = infinite_buffers([*self._models, *map(averaged_model, self._averages)])
            self._patients = replace(self._patients, legal=self._patients.legal | made)
        is_routine = step % every == 0
        is_suspect = self._suspects and step - self._checked >= LEAST_GAP
        is_kept = self._snapshots is not None and self._snapshots.is_due(step) and not self._doubts
        self._suspects = False
        if is_routine or is_suspect or is_kept:
            self.check(step, is_routine=is_routine)
        self._doubts = False

    def check(self, step: int, *, is_routine: bool = True) -> Health:
        """Look at weights, statistics, optimizer state and averages; repair what can be; announce a return if not.

        Raises:
            TrainingStoppedError: Something is damaged that no repair and no snapshot can mend.
        """
        self._checked = step
        health = check(self._patients, step, acts=self._acts, is_routine=is_routine)
        levels = by_rank(health.level, self._models)
        rank = named(apart(levels), self._models)
        sound = next((at for at, level in enumerate(levels) if level < COMMON), None)
        if max(levels) == COMMON and sound is not None:
            health = self._healed(health, sound)
        if any(levels):  # all ranks do the same, and tell the same
            health = _worst(gathered(health, self._models))
        if health.findings and not health.left:
            self._announce(Decision(action=Action.REPAIR, step=step, findings=health.findings, rank=rank))
        elif health.left and self.can_go_back(step):
            self._announce(Decision(action=Action.ROLL_BACK, step=step, findings=health.left, rank=rank))
        elif health.left:
            self._stop(step, health.left, rank)
        elif not self._doubts and self._snapshots is not None and self._snapshots.is_due(step):
            self._snapshots.take(step)
        return health

    def _healed(self, health: Health, sound: int) -> Health:
        """Have all ranks take what they hold in common from a sound one; return what is left of the damage then."""
        if not self._acts:
            return health
        take_from(sound, self._models, self._optimizers, self._averages)
        logger.warning("Weights, optimizer state and averages were taken from rank %d.", sound)
        return replace(health, left=still_damaged(self._patients)) if health.left else health

    def go_back(self, decision: Decision, step: int) -> None:
        """Go back to a snapshot; stop where there is none.

        Args:
            decision: To do so.
            step: How many steps have come to their end.
        """
        back = self._snapshots.newest(step) if self._snapshots is not None else None
        if self._snapshots is None or back is None:
            self._stop(step, decision.findings)
            return
        used = self._snapshots.go_back(step)
        lost = f"went back to step {back}: {step - back} steps are lost"
        if decision.lowers_rate or used > 1:
            factor = self._options.policy.rate_factor**2 ** (used - 1)  # it may be a hundred times too high
            lower(self._optimizers, self._schedulers, factor)
            lost += f"; learning rates are {factor:g} of what they were"
        logger.warning("%s", lost)

    def _stop(self, step: int, findings: Sequence[Finding], rank: int | None = None) -> None:
        places = ", ".join(each.place or each.detail for each in findings[:MOST_SHOWN])
        back = self._snapshots.newest(step, again=True) if self._snapshots is not None else None
        if self._snapshots is None:
            left = "and no snapshots are kept (pass ring=Ring()). Go on from a healthy checkpoint."
        elif back is None:
            left = "and no snapshot is left to go back to. Go on from a healthy checkpoint."
        else:
            self._snapshots.go_back(step, again=True)
            left = f"and going back did not help. The run was left as it was at step {back}, when it was healthy."
        where = "" if rank is None else f" of rank {rank}"
        why = f"At step {step} {places}{where} cannot be repaired, {left}"
        self._announce(Decision(action=Action.STOP, step=step, findings=tuple(findings), explanation=why, rank=rank))

    def lower_rates(self) -> None:
        """Make all learning rates smaller."""
        factor = self._options.policy.rate_factor
        lower(self._optimizers, self._schedulers, factor)
        logger.warning("learning rates are %g of what they were", factor)


def _worst(healths: Sequence[Health]) -> Health:
    """Return what the ranks' checks found, told by the one that has most left: the same for all of them."""
    return max(healths, key=lambda each: (len(each.left), len(each.findings)))
