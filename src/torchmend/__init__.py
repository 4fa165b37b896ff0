"""Find, repair and prevent numerical corruption in PyTorch checkpoints and training runs.

Importing this package never imports PyTorch. The names that need it import it when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from torchmend.anywhere import diagnose, repair
from torchmend.doctor.converting import ConvertOptions, ConvertResult
from torchmend.doctor.converting import convert_file as convert
from torchmend.doctor.fixing import FixOptions, FixResult
from torchmend.doctor.fixing import fix_file as fix
from torchmend.doctor.salvaging import SalvageOptions, SalvageResult
from torchmend.doctor.salvaging import salvage_file as salvage
from torchmend.doctor.saving import saving
from torchmend.doctor.undoing import UnfixResult
from torchmend.doctor.undoing import unfix_file as unfix
from torchmend.doctor.writing.outputs import Layout
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import (
    CorruptedStateError,
    FileError,
    RepairError,
    SourceChangedError,
    TorchmendError,
    TrainingStoppedError,
    UserError,
)
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import Edit, RepairPlan, Rung
from torchmend.facts.tensors import Role, TensorRef
from torchmend.keeping.versions import Saved
from torchmend.repairs.planning import Strategy

if TYPE_CHECKING:
    from torchmend.live.compat import check_model_health, configure_bn_for_stability, sanitize_model_bn_stats
    from torchmend.live.forensics.capsules import Capsules
    from torchmend.live.forensics.findings import Cause, Localisation
    from torchmend.live.forensics.incidents import Incident, Remedy
    from torchmend.live.forensics.replaying import Replay, replay
    from torchmend.live.guard.clipping import By, Clip
    from torchmend.live.guard.decisions import Action, Decision
    from torchmend.live.guard.guard import Guard
    from torchmend.live.guard.options import GuardOptions
    from torchmend.live.guard.policy import Policy
    from torchmend.live.guard.ring import Ring
    from torchmend.live.guard.sensing.catalogue import Sensor
    from torchmend.live.inject import inject
    from torchmend.live.recalibrating.batches import noise
    from torchmend.live.recalibrating.recalibration import recalibrate
    from torchmend.live.recalibrating.results import Recalibration
    from torchmend.live.repairing import RepairResult
    from torchmend.live.saving import save
    from torchmend.live.stabilising.changes import Stabilised
    from torchmend.live.stabilising.stabilise import stabilise

__all__ = [
    "Action",
    "By",
    "Capsules",
    "Cause",
    "Clip",
    "Code",
    "ConvertOptions",
    "ConvertResult",
    "CorruptedStateError",
    "Decision",
    "Diagnosis",
    "Edit",
    "FileError",
    "Finding",
    "FixOptions",
    "FixResult",
    "Guard",
    "GuardOptions",
    "Incident",
    "Layout",
    "Localisation",
    "Measure",
    "Policy",
    "Recalibration",
    "Remedy",
    "RepairError",
    "RepairPlan",
    "RepairResult",
    "Replay",
    "Ring",
    "Role",
    "Rung",
    "SalvageOptions",
    "SalvageResult",
    "Saved",
    "Sensor",
    "Severity",
    "SourceChangedError",
    "Stabilised",
    "Strategy",
    "TensorRef",
    "TorchmendError",
    "TrainingStoppedError",
    "UnfixResult",
    "UserError",
    "check_model_health",
    "configure_bn_for_stability",
    "convert",
    "diagnose",
    "fix",
    "inject",
    "noise",
    "recalibrate",
    "repair",
    "replay",
    "salvage",
    "sanitize_model_bn_stats",
    "save",
    "saving",
    "stabilise",
    "unfix",
]

_NEED_TORCH = {
    "Action": "torchmend.live.guard.decisions",
    "Decision": "torchmend.live.guard.decisions",
    "By": "torchmend.live.guard.clipping",
    "Capsules": "torchmend.live.forensics.capsules",
    "Cause": "torchmend.live.forensics.findings",
    "Incident": "torchmend.live.forensics.incidents",
    "Localisation": "torchmend.live.forensics.findings",
    "Remedy": "torchmend.live.forensics.incidents",
    "Replay": "torchmend.live.forensics.replaying",
    "replay": "torchmend.live.forensics.replaying",
    "Clip": "torchmend.live.guard.clipping",
    "Guard": "torchmend.live.guard.guard",
    "GuardOptions": "torchmend.live.guard.options",
    "Ring": "torchmend.live.guard.ring",
    "Sensor": "torchmend.live.guard.sensing.catalogue",
    "Policy": "torchmend.live.guard.policy",
    "Recalibration": "torchmend.live.recalibrating.results",
    "RepairResult": "torchmend.live.repairing",
    "check_model_health": "torchmend.live.compat",
    "inject": "torchmend.live.inject",
    "noise": "torchmend.live.recalibrating.batches",
    "recalibrate": "torchmend.live.recalibrating.recalibration",
    "save": "torchmend.live.saving",
    "Stabilised": "torchmend.live.stabilising.changes",
    "stabilise": "torchmend.live.stabilising.stabilise",
    "configure_bn_for_stability": "torchmend.live.compat",
    "sanitize_model_bn_stats": "torchmend.live.compat",
}


def __getattr__(name: str) -> object:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = import_module(_NEED_TORCH[name])
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"torchmend.{name} needs PyTorch, which is not installed: pip install torch") from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
