"""Where each case's fault is, read from its code: what localisations are judged by."""

from collections.abc import Mapping

from benchmarks.faults.places import Side, Truth


def _module(*names: str, of: tuple[str, ...], backward: bool = False, about: str = "") -> Truth:
    return Truth(sides=(Side.MODULE,), names=names, operations=of, backward=backward, about=about)


def _loss(*of: str, backward: bool = False, about: str = "") -> Truth:
    return Truth(sides=(Side.LOSS,), operations=of, backward=backward, about=about)


def _before(*of: str) -> Truth:
    """Code that prepares the batch: outside of the model, and in what the model is given."""
    about = "made before the model is called: outside of it, and in what it is given"
    return Truth(sides=(Side.LOSS, Side.INPUT), operations=of, about=about)


def _state(*names: str, about: str = "") -> Truth:
    return Truth(sides=(Side.STATE,), names=names, about=about)


def _nowhere(because: str) -> Truth:
    return Truth(because=because)


_MATRIX = ("addmm", "linear", "mm", "matmul")
_NORM = (
    "native_batch_norm",
    "batch_norm",
    "native_batch_norm_legit",
    "batch_norm_impl_index",
    "batch_norm_with_update",
)
_STEP = "every number that a forward or backward pass makes is finite"

TRUTHS: Mapping[str, Truth] = {
    # Statistics
    "bn_amp_overflow": _module("inner.0", of=_MATRIX),
    "bn_nan_sample": _before("div"),
    "bn_one_value_per_channel": _module("1", of=_NORM),
    "bn_dryrun_uninitialised": _state(
        "0.1.running_mean", "0.1.running_var", "0.4.running_mean", "0.4.running_var",
        about="the probe damaged all four statistics; each is as good",
    ),
    "bn_outlier_inf_var": _module("1", of=_NORM),
    "bn_outlier_finite": _nowhere(_STEP),
    "bn_half_overflow": _module("0", of=_NORM),
    "bn_negative_var": _nowhere("variances below zero are finite, and the user's code between two steps makes them"),
    "bn_frozen_statistics": _nowhere(_STEP),
    # Averages
    "ema_sticky_nan": _loss("div"),
    "swa_statistics_stale": _nowhere(_STEP),
    # Precision
    "fft_fp16_overflow": _module(
        "Fourier", of=("to_copy", "half", "to"), about="the cast stands in the model's own code, before `spectrum`"
    ),
    "ffn_fp16_headroom": _module("down", of=_MATRIX),
    "adam_fp16_eps": _state(
        "0.weight", "0.bias", "2.weight", "2.bias",
        about="the optimizer's step makes it, in every tensor that has an element without a gradient",
    ),
    "rmsnorm_fp16_overflow": _module("0", of=("square", "pow", "mean")),
    "bf16_update_vanishes": _nowhere(_STEP),
    "resume_half_moments": _nowhere("second moments of zero are finite, and loading makes them"),
    "amp_warm_up": _module("2", of=_MATRIX, backward=True),
    # Gradients
    "where_sqrt_backward": _loss("sqrt", backward=True),
    "norm_at_zero_backward": _loss("sqrt", backward=True, about="the slope of the square is NaN after it"),
    "acos_at_one_backward": _loss("acos", backward=True),
    "ctc_impossible_target": _loss("ctc_loss"),
    "kl_zero_target": _loss("log", "mul", about="the logarithm is -Inf, and its product with 0 is NaN: both make it"),
    "weight_norm_zero": _module(
        "2.parametrizations.weight.0", "2.parametrizations.weight", "2",
        of=("weight_norm_interface", "weight_norm"), about="the layer calls its parametrization by reading its weight",
    ),
    # Runaways
    "vae_exp_overflow": _nowhere(
        "with two seeds of three all is finite in the step that throws the weights away; the exponential is Inf in one"
    ),
    "schedule_below_zero": _nowhere(_STEP),
    # Losses
    "attn_full_mask": _module("attend", of=("softmax", "safe_softmax", "scaled_dot_product_attention")),
    "ce_all_ignored": _loss("nll_loss_forward", "nll_loss", "cross_entropy"),
    "masked_mean_zero": _loss("div"),
    "std_of_one": _loss("std"),
    "advantage_std_zero": _loss("div"),
    "softmax_log_zero": _loss("log"),
    "cosine_zero_vector": _loss("div", about="the cosine stands in code that uses the model, and is no module"),
    "nodata_sample": _module("0", of=_MATRIX, about="the batch is finite"),
    "accum_nan_microbatch": _before("div"),
    "clip_inf_element": _loss("exp"),
    "log_filter_hides_nan": _loss("div"),
    # Dynamics
    "loss_spike": _nowhere(_STEP),
    "dead_relu": _nowhere(_STEP),
    "adam_moment_frozen": _nowhere("loss and gradients are finite; Adam's square of them is not"),
    "scaler_collapse": _before("div"),
    "half_underflow": _nowhere("gradients of zero are finite"),
    "lr_divergence": _nowhere("the rate is too large; the place where numbers overflow first says nothing of it"),
    "lr_jump": _nowhere("the rate is too large; the place where numbers overflow first says nothing of it"),
    "bit_flip": Truth(
        sides=(Side.STATE, Side.MODULE), names=("2.weight", "2"), operations=_MATRIX,
        about="the weight is large and finite; the layer that it is in is as good",
    ),
    "gaussian_collapse": _nowhere("a deviation that shrinks for ever; all is finite for 170 steps at least"),
    # Saving
    "ckpt_nan_overwrites": _nowhere("the training is fine; what is saved is averaged elsewhere"),
    "best_metric_nan": _nowhere("the training is fine; the metric by which is chosen is not"),
}  # fmt: skip
"""By the name of the case."""
