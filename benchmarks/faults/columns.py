"""The columns of the page, and the rows of what localises."""

from benchmarks.faults.anomaly import Anomaly
from benchmarks.faults.arc_training import ArcTraining
from benchmarks.faults.frameworks import Lightning, Transformers
from benchmarks.faults.ours import Torchmend, WithLoss
from benchmarks.faults.protections import ErrorIfNonfinite, Nothing, Recipe, Scaler, SkipLoss

PROTECTIONS: tuple[type[Nothing], ...] = (
    Nothing,
    Recipe,
    SkipLoss,
    Scaler,
    ErrorIfNonfinite,
    Anomaly,
    Lightning,
    Transformers,
    ArcTraining,
    Torchmend,
)
"""All, in the order of the page's columns."""

TOOLS: tuple[type[Nothing], ...] = (Anomaly, Lightning, Transformers, ArcTraining)
"""Those of them that are tools of others; they have a table of their own."""

LOCALISING: tuple[type[Nothing], ...] = (Anomaly, Torchmend, WithLoss)
"""Those that name places, in the order of the table of places."""
