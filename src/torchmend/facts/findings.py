"""What measuring and judging give: measures, findings, and the diagnosis that holds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from torchmend.facts.codes import Code, Severity
from torchmend.facts.tensors import Scalar, TensorRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What one pass over a tensor's elements found.

    Counts are of elements; a complex element counts once, as NaN if either part is. Fields that are None
    were not measured: a healthy tensor is only screened.

    Args:
        numel: Elements in all.
        nan: Elements that are NaN.
        pos_inf: Elements that are +Inf.
        neg_inf: Elements that are -Inf.
        absmax: The largest finite magnitude; 0.0 when no element is finite. Of a tensor that was only screened and
            is of no interest to a rule it may be an upper bound.
        negative: Finite elements and -Inf below zero.
        zeros: Elements equal to zero.
        minimum: Smallest finite value.
        maximum: Largest finite value.
        bad_channels: For statistics, the indices that are not finite (or negative in a variance).
    """

    numel: int
    nan: int = 0
    pos_inf: int = 0
    neg_inf: int = 0
    absmax: float = 0.0
    negative: int | None = None
    zeros: int | None = None
    minimum: float | None = None
    maximum: float | None = None
    bad_channels: tuple[int, ...] | None = None

    @property
    def inf(self) -> int:
        """Elements that are infinite, of either sign."""
        return self.pos_inf + self.neg_inf

    @property
    def nonfinite(self) -> int:
        """Elements that are NaN or infinite."""
        return self.nan + self.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong, or unusual, with one tensor or with a file.

    Args:
        code: The stable code.
        severity: How bad it is.
        message: One plain sentence: what it is and what it does to the user.
        remedy: One plain sentence: what to do.
        ref: The tensor, or None when the finding is about a scalar or the file.
        measure: What was counted in the tensor.
        scalar: The number among the metadata, where the finding is about one.
        detail: The figures that led to the finding, in a few words; empty where the measure says it all.
    """

    code: Code
    severity: Severity
    message: str
    remedy: str
    ref: TensorRef | None = None
    measure: Measure | None = None
    scalar: Scalar | None = None
    detail: str = ""

    @property
    def place(self) -> str:
        """The dotted path of what it is about; empty for the file itself."""
        if self.ref is not None:
            return self.ref.path
        return self.scalar.dotted if self.scalar is not None else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A tensor that was not looked at, and why."""

    ref: TensorRef
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Everything that was learned about one source.

    Args:
        source: The file's path, or a word for a live object.
        format: What kind of file it is; empty when that could not be told.
        nbytes: The size of the source in bytes.
        scanned: Bytes of tensors that were looked at.
        main: The container of the model itself.
        refs: Every tensor, in the source's order.
        measures: What was measured, by tensor.
        scalars: Numbers and short texts among the metadata.
        findings: What is wrong, worst first.
        skipped: What was not looked at.
    """

    source: str
    format: str = ""
    nbytes: int = 0
    scanned: int = 0
    main: str = ""
    refs: tuple[TensorRef, ...] = ()
    measures: dict[TensorRef, Measure] = field(default_factory=dict)
    scalars: tuple[Scalar, ...] = ()
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()

    @property
    def checked(self) -> bool:
        """Whether everything in the source could be looked at."""
        return not any(finding.code.means_unchecked for finding in self.findings)

    @property
    def worst(self) -> Severity | None:
        """The highest severity among the findings, or None without any."""
        return max((finding.severity for finding in self.findings), default=None)

    @property
    def healthy(self) -> bool:
        """Whether everything was checked and nothing is an error."""
        return self.checked and self.worst is not Severity.ERROR

    @property
    def damaged(self) -> tuple[Finding, ...]:
        """The errors that are about tensors or scalars."""
        return tuple(f for f in self.findings if (f.ref or f.scalar) and f.severity is Severity.ERROR)

    def selected(self, select: Iterable[str], ignore: Iterable[str]) -> tuple[Finding, ...]:
        """Return the findings whose code starts with one of `select` and with none of `ignore`.

        Args:
            select: Code prefixes; without any, everything is selected.
            ignore: Code prefixes. Findings that say something could not be checked are never ignored.
        """
        wanted = tuple(select) or ("TM",)
        unwanted = tuple(ignore)
        return tuple(
            f
            for f in self.findings
            if f.code.means_unchecked or (f.code.value.startswith(wanted) and not f.code.value.startswith(unwanted))
        )
