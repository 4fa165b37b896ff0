"""Element types as files store them: size, kind, and the bit patterns that are not finite."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What the bits of one element mean."""

    FLOAT = "float"
    COMPLEX = "complex"
    INTEGER = "integer"
    PACKED = "packed"
    """Several elements in a byte, or opaque bits: carried along, never interpreted."""


class NonFinite(Enum):
    """Which bit patterns of a float type are Inf or NaN."""

    FROM_THRESHOLD = "magnitude bits at or above a threshold"
    """Sign and magnitude: IEEE 754 types, bfloat16, float8_e5m2, and float8_e4m3fn (NaN only)."""
    NEGATIVE_ZERO = "the pattern of negative zero"
    """The fnuz float8 types: 0x80 is NaN, there is no Inf."""
    ALL_ONES = "all bits set"
    """float8_e8m0fnu: an unsigned exponent, 0xFF is NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DType:
    """An element type.

    Args:
        name: torch's name without the `torch.` prefix.
        itemsize: Bytes of one element (of one byte's worth of elements for packed types).
        kind: How to read the bits.
        nonfinite: For floats, which patterns are not finite.
        threshold: For `FROM_THRESHOLD`, the smallest magnitude pattern that is not finite.
        component: For complex types, the name of the real and imaginary parts' type.
    """

    name: str
    itemsize: int
    kind: Kind
    nonfinite: NonFinite | None = None
    threshold: int = 0
    component: str | None = None

    @property
    def is_floating(self) -> bool:
        """Whether an element can be Inf or NaN (complex included)."""
        return self.kind in (Kind.FLOAT, Kind.COMPLEX)

    @property
    def is_real(self) -> bool:
        """Whether an element is one real number."""
        return self.kind in (Kind.FLOAT, Kind.INTEGER)


def _threshold_float(name: str, itemsize: int, threshold: int) -> DType:
    return DType(
        name=name,
        itemsize=itemsize,
        kind=Kind.FLOAT,
        nonfinite=NonFinite.FROM_THRESHOLD,
        threshold=threshold,
    )


def _complex(name: str, itemsize: int, component: str) -> DType:
    return DType(name=name, itemsize=itemsize, kind=Kind.COMPLEX, component=component)


def _integer(name: str, itemsize: int) -> DType:
    return DType(name=name, itemsize=itemsize, kind=Kind.INTEGER)


def _packed(name: str, itemsize: int = 1) -> DType:
    return DType(name=name, itemsize=itemsize, kind=Kind.PACKED)


def _float8(name: str, nonfinite: NonFinite) -> DType:
    return DType(name=name, itemsize=1, kind=Kind.FLOAT, nonfinite=nonfinite)


_ALL = (
    _threshold_float("float64", 8, 0x7FF0_0000_0000_0000),
    _threshold_float("float32", 4, 0x7F80_0000),
    _threshold_float("float16", 2, 0x7C00),
    _threshold_float("bfloat16", 2, 0x7F80),
    _threshold_float("float8_e5m2", 1, 0x7C),
    _threshold_float("float8_e4m3fn", 1, 0x7F),
    _float8("float8_e5m2fnuz", NonFinite.NEGATIVE_ZERO),
    _float8("float8_e4m3fnuz", NonFinite.NEGATIVE_ZERO),
    _float8("float8_e8m0fnu", NonFinite.ALL_ONES),
    _complex("complex128", 16, "float64"),
    _complex("complex64", 8, "float32"),
    _complex("complex32", 4, "float16"),
    *(_integer(f"{sign}int{bits}", bits // 8) for sign in ("", "u") for bits in (8, 16, 32, 64)),
    _integer("bool", 1),
    *(_packed(name) for name in ("qint8", "quint8", "quint4x2", "quint2x4", "float4_e2m1fn_x2")),
    _packed("qint32", 4),
)

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in _ALL}
"""Every element type that torch 2.13 can store, by name."""
