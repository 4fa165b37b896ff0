"""A checkpoint file in, a diagnosis out."""

from pathlib import Path

from torchmend.doctor.file_source import FileSource, ScanProgress
from torchmend.facts.codes import Code, Severity
from torchmend.facts.errors import FileError
from torchmend.facts.findings import Diagnosis, Finding, Skipped
from torchmend.rules.files import judge_structure
from torchmend.rules.globals import judge_imports
from torchmend.rules.judge import judge
from torchmend.rules.roles import main_container


def diagnose_file(
    path: str | Path, progress: ScanProgress | None = None, *, verify_checksums: bool = False
) -> Diagnosis:
    """Diagnose a checkpoint file, whatever state it is in.

    Args:
        path: The file.
        progress: Told how far the scan is.
        verify_checksums: Whether to compare every checksum in the file with its bytes.

    Returns:
        The diagnosis. A file that cannot be read gives one with a TM9xx finding.

    Raises:
        SourceChangedError: The file was written to while it was being read.
    """
    path = Path(path)
    try:
        with FileSource(path, verifies_checksums=verify_checksums) as source:
            source.report_to(progress)
            return diagnose_source(source)
    except FileError as error:
        finding = Finding(code=error.code, severity=Severity.ERROR, message=error.message, remedy=error.remedy)
        return Diagnosis(source=str(path), nbytes=_size(path), findings=(finding,))


def diagnose_source(source: FileSource) -> Diagnosis:
    """Diagnose a file that is already open."""
    unchecked, skipped = _unchecked(source)
    contents = source.contents
    structure = (
        *judge_structure((*contents.oddities, *source.wrong_checksums)),
        *judge_imports(contents.imports),
    )
    judged = sorted((*structure, *judge(source)), key=lambda finding: -finding.severity)
    return Diagnosis(
        source=str(source.path),
        format=source.contents.format,
        nbytes=source.contents.nbytes,
        scanned=source.scannable,
        main=main_container(source.refs),
        refs=source.refs,
        measures=source.measures,
        scalars=source.contents.scalars,
        findings=(*unchecked, *judged),
        skipped=skipped,
    )


def _unchecked(source: FileSource) -> tuple[tuple[Finding, ...], tuple[Skipped, ...]]:
    """List tensors whose elements cannot be had. A tensor that was saved without data is no fault."""
    findings, skipped = [], []
    for ref, tensor in source.stored.items():
        problem = source.misfits.get(ref, "")
        reason = tensor.absent or problem
        if not reason:
            continue
        skipped.append(Skipped(ref=ref, reason=reason))
        if problem or not tensor.absent.startswith("a meta tensor"):
            findings.append(
                Finding(
                    code=Code.OUT_OF_BOUNDS if problem else Code.UNREADABLE,
                    severity=Severity.ERROR,
                    message=f"This tensor was not checked: {reason}.",
                    remedy="Use an earlier checkpoint." if problem else "Save the file again with torch.save.",
                    ref=ref,
                )
            )
    return tuple(findings), tuple(skipped)


def _size(path: Path) -> int:
    """Return the size of a file; 0 for a folder, and for what is not there."""
    try:
        return 0 if path.is_dir() else path.stat().st_size
    except OSError:
        return 0
