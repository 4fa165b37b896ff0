"""Sensors that look at one step of many: opened before its forward pass, read with everything else of the step."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchmend.facts.findings import Finding
from torchmend.live.guard.sensing.calibration import Calibration
from torchmend.live.guard.sensing.catalogue import Sensor
from torchmend.live.guard.sensing.headroom import Headroom, unscaled
from torchmend.live.guard.sensing.origins import Origins
from torchmend.live.guard.sensing.reading import Extra
from torchmend.live.guard.sensing.updates import Updates
from torchmend.live.wrapping import Hook, Wrapping

Tell = Callable[[Sequence[Finding]], None]
"""Told what a sampled sensor found."""


SOON = 10
"""Steps between two looks while something is suspected."""


class SampledForward:
    """The sensors of activations: headroom and calibration.

    Args:
        models: At whose outermost forward pass they are opened.
        sensors: Which of them look.
        every: Steps between two looks.
        step: Gives the number of the present step.
        tell: Told what they find.
        has_scaler: Whether a GradScaler is at work.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        sensors: frozenset[Sensor],
        every: int,
        step: Callable[[], int],
        tell: Tell,
        *,
        has_scaler: bool,
    ) -> None:
        self._models = models
        self._headroom = Headroom(models) if Sensor.HEADROOM in sensors else None
        self._calibration = Calibration(models) if Sensor.CALIBRATION in sensors else None
        self._origins = Origins(models) if Sensor.HEADROOM in sensors else None
        self._every, self._step, self._tell = every, step, tell
        self._looked = 0
        self._seeks = False
        self._misses_scaler = not has_scaler
        self._is_open = False

    def attach(self, wrapping: Wrapping) -> None:
        """Hook the models' outermost forward passes."""
        if self._headroom is None and self._calibration is None:
            return
        for model in self._models:
            wrapping.hook(model.register_forward_pre_hook(Hook(self._before_forward)))

    @property
    def origin(self) -> str:
        """The first module that put out NaN or Inf when it was last looked for; empty if none did."""
        return self._origins.first if self._origins is not None else ""

    def seek(self) -> None:
        """Look in the next forward pass where values that are not finite come from."""
        self._seeks = True

    def _before_forward(self, module: nn.Module, _: Any) -> None:
        step = self._step()
        if self._is_open or not module.training or not (self._seeks or step - self._looked >= self._pause):
            return
        self._is_open, self._looked = True, step
        if self._seeks and self._origins is not None:
            self._origins.open()
        self._seeks = False
        if self._headroom is not None:
            self._headroom.open()
        if self._calibration is not None:
            self._calibration.open(step)

    @property
    def _pause(self) -> int:
        """Steps until the next look; few after a first sign, since one outlier is forgotten within a hundred steps."""
        suspects = self._calibration is not None and self._calibration.suspects
        return min(self._every, SOON) if suspects else self._every

    def close(self) -> list[Extra]:
        """Take away what was opened, and return what is to be read."""
        if not self._is_open:
            return []
        self._is_open = False
        if self._misses_scaler and self._headroom is not None and self._headroom.trained:
            self._misses_scaler = False
            self._tell((unscaled(self._headroom.trained),))
        return [
            Extra(values, self._told_by(each.judge))
            for each in (self._headroom, self._calibration, self._origins)
            if each is not None and (values := each.close()) is not None
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what the sensors remember, as plain values."""
        each = {"headroom": self._headroom, "calibration": self._calibration}
        return {"looked": self._looked, **{name: of.state_dict() for name, of in each.items() if of is not None}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what they remembered."""
        self._looked = int(state["looked"])
        if self._headroom is not None and "headroom" in state:
            self._headroom.load_state_dict(state["headroom"])
        if self._calibration is not None and "calibration" in state:
            self._calibration.load_state_dict(state["calibration"])

    def _told_by(self, judge: Callable[[Sequence[float]], Iterable[Finding]]) -> Callable[[list[float]], None]:
        return lambda values: self._tell(tuple(judge(values)))


class SampledUpdates:
    """What single steps of one optimizer did to its weights.

    Args:
        optimizer: Whose.
        named: Gives its parameters by name.
        every: Steps between two looks.
        tell: Told what is found.
    """

    def __init__(self, optimizer: Optimizer, named: Callable[[], Mapping[str, Tensor]], every: int, tell: Tell) -> None:
        self._updates = Updates(optimizer, named)
        self._every, self._tell = every, tell
        self._extras: list[Extra] = []
        self._is_open = False
        self.looks_next = False
        self.ratio = 0.0

    def before(self, step: int) -> None:
        """Keep the weights, if this step is looked at."""
        self.ratio = 0.0
        self._is_open = self.looks_next or (step > 0 and step % self._every == 0)
        self.looks_next = False
        if self._is_open:
            self._updates.before()

    def after(self) -> None:
        """Compare them with what they are now; it is read with the next step."""
        if self._is_open and (values := self._updates.after()) is not None:
            self._extras = [Extra(values, self._judge)]
        self._is_open = False

    def collected(self) -> list[Extra]:
        """Return what is to be read."""
        extras, self._extras = self._extras, []
        return extras

    def state_dict(self) -> dict[str, Any]:
        """Return what the sensor remembers, as plain values."""
        return self._updates.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what it remembered."""
        self._updates.load_state_dict(state)

    def _judge(self, values: list[float]) -> None:
        report = self._updates.judge(values)
        self.ratio = report.ratio
        self._tell(report.findings)
