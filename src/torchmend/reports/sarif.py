"""Diagnoses as one SARIF 2.1.0 log, the format in which code scanning services take findings.

The object model is that of the OASIS standard "Static Analysis Results Interchange Format (SARIF) Version 2.1.0".
"""

import hashlib
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import PurePath
from typing import Final
from urllib.parse import quote

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding
from torchmend.reports.machine import Json, measure_data, scalar_data
from torchmend.reports.summary import next_command, remedy, sound_copies, summarise
from torchmend.reports.wording import counts, extra, place, shown_value
from torchmend.rules.texts import TEXTS

VERSION: Final = "2.1.0"
FINGERPRINT: Final = "codeAndPlace/v1"

_RULES: Final = tuple(Code)
_INDEX: Final = {code: at for at, code in enumerate(_RULES)}
_WARNINGS: Final = frozenset(
    {
        Code.STATISTIC_OUTLIER,
        Code.STATISTIC_NEVER_MOVED,
        Code.WEIGHT_BEYOND_BFLOAT16,
        Code.MOMENT_SHAPE,
        Code.STEP_COUNT,
        Code.BEST_METRIC,
        Code.LOSS_NOT_FINITE,
        Code.UNKNOWN_GLOBAL,
    }
)
_NOTES: Final = frozenset(
    {
        Code.VARIANCE_COLLAPSED,
        Code.BATCH_COUNT,
        Code.STATISTIC_HALF_PRECISION,
        Code.STATISTIC_BEYOND_HALF,
        Code.WEIGHT_ALL_ZERO,
        Code.WEIGHT_CONSTANT,
        Code.WEIGHT_BEYOND_HALF,
        Code.MOMENT_NARROW,
        Code.METADATA_NOT_FINITE,
        Code.LIVE_NOT_FINITE,
        Code.UNREFERENCED,
    }
)


def sarif_log(
    diagnoses: Sequence[Diagnosis],
    shown: Sequence[Sequence[Finding]] | None = None,
    problems: Sequence[str] = (),
) -> Json:
    """Turn diagnoses into one SARIF log with one run.

    Args:
        diagnoses: In the order of the report; healthy ones are listed among the artifacts.
        shown: For each diagnosis, the findings to list; all when None.
        problems: What else kept files from being checked, one sentence each.
    """
    listed = [each.findings for each in diagnoses] if shown is None else shown
    notifications = [_notification(each, at) for at, each in enumerate(diagnoses) if not each.checked]
    notifications += [{"level": "error", "message": {"text": problem}} for problem in problems]
    run = {
        "tool": {"driver": _driver()},
        "invocations": [{"executionSuccessful": not notifications, "toolExecutionNotifications": notifications}],
        "artifacts": [_artifact(each) for each in diagnoses],
        "results": [
            _result(finding, each, at, remedy(finding, copied))
            for at, (each, findings) in enumerate(zip(diagnoses, listed, strict=True))
            for copied in [sound_copies(each)]
            for finding in findings
        ],
    }
    return {"version": VERSION, "runs": [run]}


def uri(source: str) -> str:
    """Write a file's path as a percent-encoded URI: `file://...` where it is absolute, else relative."""
    path = PurePath(source)
    return path.as_uri() if path.is_absolute() else quote(os.fsencode(path.as_posix()))


def _driver() -> Json:
    return {"name": "torchmend", "version": metadata.version("torchmend"), "rules": [_rule(code) for code in _RULES]}


def _rule(code: Code) -> Json:
    text = TEXTS[code]
    return {
        "id": code.value,
        "name": "".join(word.capitalize() for word in code.name.split("_")),
        "shortDescription": {"text": text.title},
        "fullDescription": {"text": text.consequence},
        "help": {"text": f"{text.consequence} {text.remedy}", "markdown": text.body},
        "defaultConfiguration": {"level": _usual(code).label},
    }


def _usual(code: Code) -> Severity:
    """Return the severity that most findings of a code have."""
    if code in _NOTES:
        return Severity.NOTE
    return Severity.WARNING if code in _WARNINGS else Severity.ERROR


def _artifact(diagnosis: Diagnosis) -> Json:
    return {
        "location": {"uri": uri(diagnosis.source)},
        "length": diagnosis.nbytes,
        "roles": ["analysisTarget"],
        "properties": {
            "verdict": summarise(diagnosis).verdict.value,
            "format": diagnosis.format,
            "next": next_command(diagnosis),
        },
    }


def _result(finding: Finding, diagnosis: Diagnosis, at: int, to_do: str) -> Json:
    place_of = f"{finding.code.value}\0{finding.place}"
    properties: Json = {"remedy": to_do, "detail": finding.detail}
    if finding.measure is not None:
        properties["measure"] = measure_data(finding.measure)
    if finding.scalar is not None:
        properties["scalar"] = scalar_data(finding.scalar)
    return {
        "ruleId": finding.code.value,
        "ruleIndex": _INDEX[finding.code],
        "level": finding.severity.label,
        "message": {"text": _message(finding, to_do)},
        "locations": [_location(diagnosis, at, finding)],
        "partialFingerprints": {FINGERPRINT: hashlib.sha256(place_of.encode("utf-8", "surrogatepass")).hexdigest()},
        "properties": properties,
    }


def _message(finding: Finding, to_do: str) -> str:
    figures = [extra(finding)]
    if finding.ref is not None and finding.measure is not None:
        figures.insert(0, " ".join(counts(finding.measure, nonnegative=finding.ref.role.is_nonnegative).split()))
    where = ""
    if finding.scalar is not None:
        where = f"{place(finding.scalar)} = {shown_value(finding.scalar.value)}: "
    elif finding.ref is not None:
        where = f"{place(finding.ref)}: "
    seen = f" ({text})" if (text := "; ".join(filter(None, figures))) else ""
    return f"{where}{TEXTS[finding.code].title}{seen}. {finding.message} {to_do}"


def _location(diagnosis: Diagnosis, at: int, finding: Finding | None = None) -> Json:
    # A checkpoint has no lines; line 1 stands for the file, since code scanning services ask for one.
    where = {"artifactLocation": {"uri": uri(diagnosis.source), "index": at}, "region": {"startLine": 1}}
    location: Json = {"physicalLocation": where}
    if finding is not None and finding.place:
        name = finding.ref.name if finding.ref is not None else finding.place
        location["logicalLocations"] = [{"name": name, "fullyQualifiedName": finding.place, "kind": "member"}]
    return location


def _notification(diagnosis: Diagnosis, at: int) -> Json:
    first = next(f for f in diagnosis.findings if f.code.means_unchecked)
    return {
        "level": "error",
        "descriptor": {"id": first.code.value},
        "message": {"text": f"{diagnosis.source} was not fully checked. {first.message} {first.remedy}"},
        "locations": [_location(diagnosis, at)],
    }
