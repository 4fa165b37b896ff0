"""Rules on the names that a pickle would have a program import that unpickles it. This is no malware scanner."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.facts.texts import printable
from torchmend.formats.contents import Import
from torchmend.rules.evidence import finding
from torchmend.rules.known_globals import (
    AMBIGUOUS,
    DANGEROUS,
    DANGEROUS_ATTRIBUTES,
    DANGEROUS_BUILTINS,
    DANGEROUS_MODULES,
    DANGEROUS_PREFIXES,
    HARMLESS,
    HARMLESS_BUILTINS,
    HARMLESS_CLASSES,
    HARMLESS_MODULES,
    REACHING_MODULES,
    UNPICKLES_AGAIN,
)

MOST_FINDINGS = 50
"""Findings of one code for one file; the last one counts the rest."""

MOST_NAMES = 3
"""Names of one package that are listed."""

_BUILTINS = ("builtins", "__builtin__")
_UNAMBIGUOUS = frozenset(DANGEROUS_MODULES - AMBIGUOUS)


def judge_imports(imports: Sequence[Import]) -> Iterator[Finding]:
    """Judge the names that pickles wanted to import: dangerous ones one by one, unknown ones by package."""
    judged = [(global_severity(wanted.module, wanted.name), wanted) for wanted in imports]
    yield from _folded(Code.DANGEROUS_GLOBAL, Severity.ERROR, [_danger(w) for s, w in judged if s is Severity.ERROR])
    unknown = sorted((w for s, w in judged if s is Severity.WARNING), key=_package)
    packages = [_unknown(package, list(group)) for package, group in groupby(unknown, _package)]
    yield from _folded(Code.UNKNOWN_GLOBAL, Severity.WARNING, packages)


def global_severity(module: str, name: str) -> Severity | None:
    """Return how bad the import of a name is; None for what honest checkpoints import.

    Args:
        module: The module, as the pickle has it.
        name: What of it. A dotted name walks over attributes, so it may lead through other modules.
    """
    dotted = f"{module}.{name}"
    if dotted in HARMLESS:
        return None
    if _is_dangerous(module, name):
        return Severity.ERROR
    return None if _is_harmless(module, name) else Severity.WARNING


def _is_dangerous(module: str, name: str) -> bool:
    top, *below = module.split(".")
    steps = name.split(".")
    dotted = f"{module}.{name}"
    return (
        top.strip("_") in DANGEROUS_MODULES
        or any(step in REACHING_MODULES for step in below)
        or dotted in DANGEROUS
        or dotted.startswith(DANGEROUS_PREFIXES)
        or (module in _BUILTINS and steps[0] in DANGEROUS_BUILTINS)
        or any(step in DANGEROUS_ATTRIBUTES for step in steps)
        or any(step.strip("_") in DANGEROUS_MODULES for step in steps[:-1])
        or steps[-1].strip("_") in _UNAMBIGUOUS
    )


def _is_harmless(module: str, name: str) -> bool:
    top, dotted = module.partition(".")[0], f"{module}.{name}"
    if module in _BUILTINS:
        return name in HARMLESS_BUILTINS
    if top in ("torch", "numpy", "__torch__"):
        return dotted not in UNPICKLES_AGAIN
    if top in HARMLESS_MODULES:
        return "." not in name
    is_class = name.lstrip("_")[:1].isupper() and "." not in name
    return is_class and f"{module}.".startswith(HARMLESS_CLASSES)


def _danger(wanted: Import) -> str:
    done = f"call {wanted.call}" if wanted.call else f"import {printable(wanted.dotted)}"
    inside = f" of {printable(wanted.pickle)}" if wanted.pickle else " of the pickle"
    place = "" if wanted.place is None else f", byte {wanted.place:,} of the file"
    return f"it wanted to {done}; the name stands at byte {wanted.at:,}{inside}{place}"


def _package(wanted: Import) -> str:
    return wanted.module.partition(".")[0]


def _unknown(package: str, imports: list[Import]) -> str:
    names = ", ".join(wanted.call or printable(wanted.dotted) for wanted in imports[:MOST_NAMES])
    more = f" and {len(imports) - MOST_NAMES:,} more of {printable(package)}" if len(imports) > MOST_NAMES else ""
    return f"{names}{more}"


def _folded(code: Code, severity: Severity, details: list[str]) -> Iterator[Finding]:
    kept = details if len(details) <= MOST_FINDINGS else details[: MOST_FINDINGS - 1]
    if len(kept) < len(details):
        kept = [*kept, f"and {len(details) - len(kept):,} more of this kind"]
    yield from (finding(code, severity, detail=detail) for detail in kept)
