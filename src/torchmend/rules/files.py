"""Rules on a file's own structure."""

from collections.abc import Iterator

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.formats.contents import Oddity
from torchmend.rules.evidence import finding

_SEVERITIES = {Code.UNREFERENCED: Severity.NOTE}


def judge_structure(oddities: tuple[Oddity, ...]) -> Iterator[Finding]:
    """Turn what is odd about a file's structure into findings."""
    for oddity in oddities:
        severity = _SEVERITIES.get(oddity.code, Severity.ERROR)
        yield finding(oddity.code, severity, detail=oddity.detail)
