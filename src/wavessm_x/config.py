"""What a training is told: plain values, checked where they are made, that travel in checkpoints."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

Ssm = Literal["exact", "ssd"]
"""How the scan is computed: step by step in chunks for a matrix A, or by matrix products for a scalar A a head."""

Precision = Literal["32", "16-mixed", "bf16-mixed"]
"""Of the forward pass, as lightning-fabric names it."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a trained network runs; "auto" takes CUDA where there is any."""

USUAL_LR = 1e-4
"""The highest learning rate, where none is said."""

LARGEST_WAVELET = 10
"""Daubechies wavelets from db1 (Haar) to db10 are offered."""


class WavessmError(Exception):
    """What a user can mend; the message says how."""


class ConfigError(WavessmError, ValueError):
    """A setting that has no meaning; the message names it, its value, and what is expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The architecture.

    Args:
        channels: Of the levels, from full resolution to an eighth; even, and all but the first multiples of 4.
        blocks: Of the encoder's levels; the decoder has those of the first three, reversed.
        d_state: States of each channel of a scan.
        d_conv: Taps of the causal convolution before it.
        expand: Inner channels of a scan relative to its input.
        wavelet: "haar", or "db1" to "db10".
        use_mamba: Whether blocks scan at all; without, they are convolutions alone.
        use_fass: Whether the scan is adapted by frequency, and the bottleneck has its two streams.
        use_ffc: Whether there is a Fourier refinement.
        fass_no_b: Leave B as it is.
        fass_no_c: Leave C as it is.
        fass_no_delta: Leave the step size as it is.
        ssm: How scans are computed.
        masked: Whether a mask is given; holes are filled smoothly first, and their detail is given too.
        half_fft: Cast spectra to half precision before they are normalised, as the broken trainer did, to show it.
    """

    channels: tuple[int, int, int, int] = (16, 32, 64, 128)
    blocks: tuple[int, int, int, int] = (4, 6, 6, 8)
    d_state: int = 16
    d_conv: int = 4
    expand: int = 2
    wavelet: str = "db3"
    use_mamba: bool = True
    use_fass: bool = True
    use_ffc: bool = True
    fass_no_b: bool = False
    fass_no_c: bool = False
    fass_no_delta: bool = False
    ssm: Ssm = "exact"
    masked: bool = False
    half_fft: bool = False

    def __post_init__(self) -> None:
        """Raise ConfigError for values without a meaning."""
        for name in ("d_state", "d_conv", "expand"):
            _at_least(name, getattr(self, name), 1)
        for name in ("channels", "blocks"):
            values = getattr(self, name)
            if len(values) != 4 or any(each < 1 for each in values):
                raise ConfigError(f"{name} is {values}; it must be four numbers of 1 or more.")
        if self.channels[0] % 2 or any(each % 4 for each in self.channels[1:]):
            raise ConfigError(f"channels are {self.channels}; the first must be even, the others multiples of 4.")
        known = ("haar", *(f"db{order}" for order in range(1, LARGEST_WAVELET + 1)))
        if self.wavelet not in known:
            raise ConfigError(f"wavelet is {self.wavelet!r}; it must be one of {', '.join(known)}.")
        if self.ssm not in ("exact", "ssd"):
            raise ConfigError(f"ssm is {self.ssm!r}; it must be 'exact' or 'ssd'.")

    @classmethod
    def preset(cls, name: str, **changed: Any) -> Self:
        """Return a preset, some of its settings changed.

        Args:
            name: "base" as published, 5 million parameters; "small" for CPUs, 0.4 million; "tiny" for tests.
            **changed: Other settings.

        Raises:
            ConfigError: There is no such preset, or a setting has no meaning.
        """
        if name not in PRESETS:
            raise ConfigError(f"There is no preset {name!r}; the presets are {', '.join(PRESETS)}.")
        return replace(cls(**PRESETS[name]), **changed)


PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "small": {"channels": (16, 24, 32, 48), "blocks": (1, 1, 1, 1), "d_state": 4, "wavelet": "haar"},
    "tiny": {"channels": (8, 12, 16, 24), "blocks": (1, 1, 1, 1), "d_state": 4, "wavelet": "haar"},
}
"""Settings of each size that differ from the defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """The pictures.

    Args:
        data_path: A folder with pairs in `inp` or `input` and `target`, `gt` or `ground_truth`, or with photographs.
        data_path_test: The like, evaluated at the end; None for none.
        masks: A folder of masks, white where a picture is to be filled; None draws them.
        patch_size: Width and height of training patches, in pixels.
        validation: The share of pictures that is kept for validation, between 0 and 1.
        batch_size: Patches in a micro-batch.
        workers: Processes that load.
        seed: Of everything random.
    """

    data_path: Path
    data_path_test: Path | None = None
    masks: Path | None = None
    patch_size: int = 256
    validation: float = 0.1
    batch_size: int = 24
    workers: int = 4
    seed: int = 42

    def __post_init__(self) -> None:
        """Raise ConfigError for values without a meaning."""
        _at_least("batch_size", self.batch_size, 1)
        _at_least("workers", self.workers, 0)
        _at_least("patch_size", self.patch_size, 16)
        if not 0 < self.validation < 1:
            raise ConfigError(f"validation is {self.validation}; it must lie between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How it is trained.

    Args:
        model_file: Where the checkpoint is; the best one, logs and pictures lie beside it.
        dataset_name: A label for the log.
        resume: Go on from the checkpoint.
        lr: The highest learning rate; None takes the checkpoint's when it is gone on from, else 1e-4.
        num_iter: Steps to attempt in all.
        val_every: Steps between two validations.
        accumulate: Micro-batches in a step.
        precision: "32", "16-mixed" or "bf16-mixed".
        clip: The largest gradient norm.
        weight_decay: Of weights with two dimensions or more.
        ema: Decay of the averaged weights; 0 keeps none.
        loss_weights: Of l1, perceptual, ssim, edge and freq.
        perceptual_weights: A file with the weights of VGG19; None leaves the perceptual loss out.
        lpips_weights: A file for LPIPS; None leaves the metric out.
        compile: Whether the model is compiled.
        health_every: Steps between two health checks.
        csv_every: Steps between two lines of the log file.
        pictures_every: Steps between two sets of curves and samples.
    """

    model_file: Path = Path("checkpoints/wavessm_x.pth")
    dataset_name: str = "WaveSSM"
    resume: bool = False
    lr: float | None = None
    num_iter: int = 33000
    val_every: int = 500
    accumulate: int = 1
    precision: Precision = "32"
    clip: float = 0.5
    weight_decay: float = 1e-4
    ema: float = 0.999
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 0.5, 0.3)
    perceptual_weights: Path | None = None
    lpips_weights: Path | None = None
    compile: bool = False
    health_every: int = 100
    csv_every: int = 10
    pictures_every: int = 5000

    @property
    def first_lr(self) -> float:
        """The highest learning rate of a training that begins."""
        return USUAL_LR if self.lr is None else self.lr

    def __post_init__(self) -> None:
        """Raise ConfigError for values without a meaning."""
        for name in ("num_iter", "val_every", "accumulate", "health_every", "csv_every", "pictures_every"):
            _at_least(name, getattr(self, name), 1)
        for name in ("lr", "clip"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}; it must be above 0.")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema is {self.ema}; it must be 0 or more and below 1.")
        if len(self.loss_weights) != 5 or not all(each >= 0 for each in self.loss_weights):
            raise ConfigError(f"loss_weights are {self.loss_weights}; they must be five numbers of 0 or more.")


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ConfigError(f"{name} is {value}; it must be {least} or more.")


def as_plain(config: Any) -> dict[str, Any]:
    """Return a config as plain values, paths as strings and tuples as lists, for a checkpoint."""
    return {name: _plain(value) for name, value in asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def model_config(plain: dict[str, Any]) -> ModelConfig:
    """Make a model's config from what `as_plain` made of one; what this version does not know is left out."""
    known = {each.name for each in fields(ModelConfig)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in plain.items() if name in known
    }
    return ModelConfig(**values)
