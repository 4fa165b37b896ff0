"""Find, repair and prevent numerical corruption in PyTorch checkpoints and training runs.

Importing this package never imports PyTorch.
"""

from torchmend.doctor.diagnosing import diagnose_file as diagnose
from torchmend.doctor.fixing import FixOptions, FixResult
from torchmend.doctor.fixing import fix_file as fix
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import FileError, RepairError, SourceChangedError, TorchmendError, UserError
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import Edit, RepairPlan, Rung
from torchmend.facts.tensors import Role, TensorRef
from torchmend.repair.planning import Strategy

__all__ = [
    "Code",
    "Diagnosis",
    "Edit",
    "FileError",
    "Finding",
    "FixOptions",
    "FixResult",
    "Measure",
    "RepairError",
    "RepairPlan",
    "Role",
    "Rung",
    "Severity",
    "SourceChangedError",
    "Strategy",
    "TensorRef",
    "TorchmendError",
    "UserError",
    "diagnose",
    "fix",
]
