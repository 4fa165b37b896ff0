"""Which known cause a localisation points to: one code for each, with a page that `torchmend explain` prints."""

from torchmend.facts.codes import Code
from torchmend.live.forensics.findings import Cause, Localisation

_PLACES = {
    Cause.INPUT: Code.BATCH_NOT_FINITE,
    Cause.PARAMETER: Code.STATE_NOT_FINITE_BEFORE,
    Cause.BUFFER: Code.STATE_NOT_FINITE_BEFORE,
    Cause.OUTSIDE: Code.STATE_NOT_FINITE_BEFORE,
    Cause.NOT_AGAIN: Code.NOT_REPRODUCED,
}

_HALVES = ("float16", "bfloat16", "complex32")

_DIVIDES = ("div", "reciprocal", "rsqrt", "true_divide", "floor_divide", "remainder", "fmod", "weight_norm", "renorm")
_LOGARITHMS = ("log", "log2", "log10", "log1p", "logit", "xlogy", "lgamma", "digamma", "special_xlog1py")
_STEEP = (
    "sqrt", "norm", "linalg_vector_norm", "acos", "asin", "acosh", "atanh", "pow", "cdist", "cdist_forward",
    "euclidean_dist", "pairwise_distance", "std", "hypot", "rsqrt", "weight_norm_interface",
)  # fmt: skip
_SOFTMAXES = ("softmax", "safe_softmax", "log_softmax", "scaled_dot_product", "logsumexp")
_SUMS = (
    "addmm", "mm", "bmm", "baddbmm", "convolution", "native_layer_norm", "native_batch_norm", "native_group_norm",
    "fused_rms_norm", "fft_r2c", "fft_c2c", "fft_c2r", "cumsum", "sum",
)  # fmt: skip
"""Operations whose own partial sums may pass the largest number, and give NaN when Inf is taken from Inf."""

_MEANS = ("mean", "std", "var", "var_mean", "std_mean", "nll_loss", "nll_loss_forward", "nll_loss2d_forward", "median")


def cause_of(found: Localisation) -> Code | None:
    """Return the code of the cause that a localisation points to; None where nothing is known."""
    if found.cause is Cause.UNKNOWN:
        return None
    if found.cause in _PLACES:
        return _PLACES[found.cause]
    if found.is_out_of_range:
        return Code.BATCH_OUT_OF_RANGE
    operation = found.operation.rstrip("_")
    by_operation = _backward(operation) if found.backward else _forward(operation, found.value)
    if by_operation is None and found.dtype in _HALVES:
        return Code.OVERFLOW_IN_HALF
    if by_operation is None and operation and (found.value != "NaN" or operation in _SUMS):
        return Code.OVERFLOW
    return by_operation or (Code.LOSS_CODE if found.cause is Cause.LOSS else Code.MODULE_CODE)


def _backward(operation: str) -> Code | None:
    if operation in _STEEP:
        return Code.SLOPE_INFINITE
    return _forward(operation, "NaN") if operation not in _MEANS else None


def _forward(operation: str, value: str) -> Code | None:
    if operation in _DIVIDES:
        return Code.DIVISION_BY_ZERO
    if operation in _LOGARITHMS:
        return Code.LOGARITHM_OF_ZERO
    if value == "NaN" and operation.startswith(_SOFTMAXES):
        return Code.ROW_FULLY_MASKED
    if value == "NaN" and operation in _MEANS:
        return Code.MEAN_OF_NOTHING
    return None
