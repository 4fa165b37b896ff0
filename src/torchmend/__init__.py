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
from torchmend.doctor.undoing import UnfixResult
from torchmend.doctor.undoing import unfix_file as unfix
from torchmend.doctor.writing.outputs import Layout
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import FileError, RepairError, SourceChangedError, TorchmendError, UserError
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import Edit, RepairPlan, Rung
from torchmend.facts.tensors import Role, TensorRef
from torchmend.repairs.planning import Strategy

if TYPE_CHECKING:
    from torchmend.live.compat import check_model_health, configure_bn_for_stability, sanitize_model_bn_stats
    from torchmend.live.guard.decisions import Action, Decision
    from torchmend.live.guard.guard import Guard
    from torchmend.live.guard.policy import Policy
    from torchmend.live.repairing import RepairResult

__all__ = [
    "Action",
    "Code",
    "ConvertOptions",
    "ConvertResult",
    "Decision",
    "Diagnosis",
    "Edit",
    "FileError",
    "Finding",
    "FixOptions",
    "FixResult",
    "Guard",
    "Layout",
    "Measure",
    "Policy",
    "RepairError",
    "RepairPlan",
    "RepairResult",
    "Role",
    "Rung",
    "SalvageOptions",
    "SalvageResult",
    "Severity",
    "SourceChangedError",
    "Strategy",
    "TensorRef",
    "TorchmendError",
    "UnfixResult",
    "UserError",
    "check_model_health",
    "configure_bn_for_stability",
    "convert",
    "diagnose",
    "fix",
    "repair",
    "salvage",
    "sanitize_model_bn_stats",
    "unfix",
]

_NEED_TORCH = {
    "Action": "torchmend.live.guard.decisions",
    "Decision": "torchmend.live.guard.decisions",
    "Guard": "torchmend.live.guard.guard",
    "Policy": "torchmend.live.guard.policy",
    "RepairResult": "torchmend.live.repairing",
    "check_model_health": "torchmend.live.compat",
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
