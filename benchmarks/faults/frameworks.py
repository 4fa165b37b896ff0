"""What Lightning and Transformers have against faults, each in its own loop; they are imported when they are run."""

import math
from pathlib import Path
from typing import Any

from benchmarks.faults.protections import CannotRunError, Nothing
from benchmarks.faults.training import Training

CLIP = 1.0
"""The limit on gradient norms where the loop has none of its own; the default of Transformers."""

EPOCH = 20
"""Steps after which Lightning looks at the loss, as at the end of a short epoch."""


class Lightning(Nothing):
    """Trains in `Trainer.fit` with everything switched on that Lightning has against this."""

    name = "Lightning"
    about = (
        f"the loop is Lightning's `Trainer(detect_anomaly=True, gradient_clip_val={CLIP:g})` with "
        f"`EarlyStopping(check_finite=True)` on the mean loss of each {EPOCH} steps; what is saved by a metric goes by "
        "the rule of its `ModelCheckpoint`, in which NaN is the worst (that rule alone is modelled)"
    )

    def train(self) -> None:
        from benchmarks.faults.lightning_loop import fit

        fit(self)

    def save(self, state: Any, path: Path, metric: float | None = None) -> None:
        super().save(state, path, -math.inf if metric is not None and math.isnan(metric) else metric)


class Transformers(Nothing):
    """Trains in `Trainer.train` with its defaults: gradients clipped, NaN and Inf kept out of the logged loss."""

    name = "Transformers"
    about = (
        f"the loop is Transformers' `Trainer` with its defaults, `max_grad_norm={CLIP:g}` and "
        "`logging_nan_inf_filter=True`; what is saved by a metric goes by its rule for the best model, in which NaN is "
        "never better (that rule alone is modelled). Loops with a GradScaler cannot be run so: its float16 needs a GPU"
    )

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.best = -math.inf

    def train(self) -> None:
        if self.training.scaler is not None:
            raise CannotRunError("its float16 needs a GPU")
        from benchmarks.faults.transformers_loop import fit

        fit(self)
