"""Every rule on small arrays: a case in which it speaks, and its neighbour in which it does not."""

import math

import numpy as np
import pytest

from fake_sources import ArraySource
from torchmend.facts.codes import Code, Severity
from torchmend.rules.judge import judge

CHANNELS = 8
INF, NAN = math.inf, math.nan
OPTIMIZER = {"optimizer": (("0", "conv.weight"),)}


def layer(prefix="model/bn", *, mean=None, var=None, weight=1.0, count=12, dtype="float32"):
    """Return the five arrays of a BatchNorm layer whose statistics have moved."""
    channels = np.arange(CHANNELS)
    return {
        f"{prefix}.weight": np.full(CHANNELS, weight, dtype=dtype),
        f"{prefix}.bias": np.zeros(CHANNELS, dtype=dtype),
        f"{prefix}.running_mean": np.asarray(0.1 * channels - 0.3 if mean is None else mean, dtype=dtype),
        f"{prefix}.running_var": np.asarray(1.0 + 0.2 * channels if var is None else var, dtype=dtype),
        f"{prefix}.num_batches_tracked": np.asarray(count, dtype=np.int64),
    }


def with_channel(value, of="var", at=3):
    """Return a layer in which one channel of one statistic has another value."""
    values = 1.0 + 0.2 * np.arange(CHANNELS) if of == "var" else 0.1 * np.arange(CHANNELS) - 0.3
    values[at] = value
    return layer(**{of: values})


def matrix(fill=None, shape=(4, 8), dtype="float32"):
    """Return a model of one weight, with random elements or all of one value."""
    values = np.random.default_rng(0).normal(size=shape) if fill is None else np.full(shape, fill)
    return {"model/conv.weight": values.astype(dtype)}


def adam(*, shape=(4, 8), step=12.0, moment=0.01, dtype="float32", steps=None):
    """Return a model of two tensors and its optimizer's state."""
    arrays = matrix() | {"model/conv.bias": np.ones(4, dtype=np.float32)}
    for key, (size, count) in enumerate([(shape, step), ((4,), step if steps is None else steps)]):
        arrays[f"optimizer/state.{key}.step"] = np.asarray(count, dtype=np.float32)
        arrays[f"optimizer/state.{key}.exp_avg"] = np.full(size, moment, dtype=dtype)
        arrays[f"optimizer/state.{key}.exp_avg_sq"] = np.full(size, moment, dtype=dtype)
    return arrays


ADAM_KEYS = {"optimizer": (("0", "conv.weight"), ("1", "conv.bias"))}
SCALER = {"scaler.growth_factor": 2.0, "scaler.backoff_factor": 0.5, "scaler.growth_interval": 2000}


def source(arrays, scalars=None, optimizers=None):
    return ArraySource(
        arrays, scalars, optimizers or (ADAM_KEYS if any("optimizer" in name for name in arrays) else {})
    )


def averaged(live, copy):
    """Return a model and its EMA copy."""
    return {**live, **{name.replace("model/", "ema/"): array for name, array in copy.items()}}


E, W, N = Severity.ERROR, Severity.WARNING, Severity.NOTE
LIVE = np.asarray(matrix()["model/conv.weight"])
POISONED = np.where(np.arange(32).reshape(4, 8) == 5, np.float32(NAN), LIVE)

SPEAKS = {
    "mean infinite": (Code.MEAN_NOT_FINITE, E, source(with_channel(INF, of="mean"))),
    "variance nan": (Code.VARIANCE_NOT_FINITE, E, source(with_channel(NAN))),
    "variance negative": (Code.VARIANCE_NEGATIVE, E, source(with_channel(-0.5))),
    "one variance zero": (Code.VARIANCE_COLLAPSED, N, source(with_channel(0.0))),
    "one variance subnormal": (Code.VARIANCE_COLLAPSED, N, source(with_channel(1e-40))),
    "all variances zero": (Code.VARIANCE_COLLAPSED, W, source(layer(var=np.zeros(CHANNELS)))),
    "variance far above": (Code.STATISTIC_OUTLIER, W, source(with_channel(1e8))),
    "variance huge everywhere": (Code.STATISTIC_OUTLIER, W, source(layer(var=np.full(CHANNELS, 1e22)))),
    "mean far off": (Code.STATISTIC_OUTLIER, W, source(with_channel(-1e5, of="mean"))),
    "count negative": (Code.BATCH_COUNT, W, source(layer(count=-3))),
    "count zero after moves": (Code.BATCH_COUNT, N, source(layer(count=0))),
    "counts differ": (Code.BATCH_COUNT, N, source(layer() | layer("model/b2") | layer("model/b3", count=11))),
    "half statistics": (Code.STATISTIC_HALF_PRECISION, N, source(layer(dtype="float16"))),
    "reset after batches": (
        Code.STATISTIC_NEVER_MOVED,
        W,
        source(layer(mean=np.zeros(CHANNELS), var=np.ones(CHANNELS), count=500)),
    ),
    "average never moved": (
        Code.STATISTIC_NEVER_MOVED,
        W,
        source(averaged(layer(), layer(mean=np.zeros(CHANNELS), var=np.ones(CHANNELS), count=0))),
    ),
    "variance beyond half": (Code.STATISTIC_BEYOND_HALF, N, source(layer(var=np.full(CHANNELS, 70_000.0)))),
    "weight nan": (Code.WEIGHT_NOT_FINITE, E, source({"model/conv.weight": POISONED})),
    "bias infinite": (Code.BIAS_NOT_FINITE, E, source(matrix() | {"model/conv.bias": np.float32([1, INF])})),
    "weight zero": (Code.WEIGHT_ALL_ZERO, N, source(matrix(0.0))),
    "weight constant": (Code.WEIGHT_CONSTANT, N, source(matrix(0.25))),
    "weight beyond half": (Code.WEIGHT_BEYOND_HALF, N, source(matrix() | {"model/out.weight": LIVE * 1e5})),
    "weight at the edge": (Code.WEIGHT_BEYOND_BFLOAT16, W, source({"model/conv.weight": LIVE * 0 + [[3.4e38] * 8]})),
    "first moment nan": (Code.FIRST_MOMENT_NOT_FINITE, E, source(adam() | {"optimizer/state.0.exp_avg": POISONED})),
    "second moment infinite": (
        Code.SECOND_MOMENT_NOT_FINITE,
        E,
        source(adam() | {"optimizer/state.0.exp_avg_sq": np.full((4, 8), INF, dtype=np.float32)}),
    ),
    "second moment negative": (
        Code.SECOND_MOMENT_NEGATIVE,
        E,
        source(adam() | {"optimizer/state.0.exp_avg_sq": np.full((4, 8), -1e-9, dtype=np.float32)}),
    ),
    "other state nan": (Code.OPTIMIZER_STATE_NOT_FINITE, E, source(adam() | {"optimizer/state.0.z": POISONED})),
    "moment of another shape": (Code.MOMENT_SHAPE, W, source(adam(shape=(4, 7)))),
    "second moment in half": (Code.MOMENT_NARROW, W, source(adam(dtype="float16"))),
    "step zero beside moments": (Code.STEP_COUNT, W, source(adam(step=0.0))),
    "step negative": (Code.STEP_COUNT, W, source(adam(step=-4.0))),
    "steps differ": (Code.STEP_COUNT, N, source(adam(steps=11.0))),
    "python steps differ": (
        Code.STEP_COUNT,
        N,
        source(
            {name: array for name, array in adam().items() if not name.endswith("step")},
            {"optimizer.state.0.step": 12, "optimizer.state.1.step": 4},
        ),
    ),
    "metric history nan": (
        Code.METADATA_NOT_FINITE,
        N,
        source(matrix() | {"history/psnr": np.float32([30.0, NAN])}),
    ),
    "scale zero": (Code.SCALER_BROKEN, E, source(matrix(), SCALER | {"scaler.scale": 0.0})),
    "scale subnormal": (Code.SCALER_BROKEN, E, source(matrix(), SCALER | {"scaler.scale": 2e-320})),
    "scale nan": (Code.SCALER_BROKEN, E, source(matrix(), SCALER | {"scaler.scale": NAN})),
    "scale infinite": (Code.SCALER_BROKEN, E, source(matrix(), SCALER | {"scaler.scale": INF})),
    "scale below one": (Code.SCALER_BROKEN, N, source(matrix(), SCALER | {"scaler.scale": 0.5})),
    "scale tensor zero": (Code.SCALER_BROKEN, E, source(matrix() | {"scaler/scale": np.zeros(1, dtype=np.float32)})),
    "rate nan": (Code.LEARNING_RATE, E, source(matrix(), {"optimizer.param_groups.0.lr": NAN})),
    "last rate nan": (Code.LEARNING_RATE, W, source(matrix(), {"scheduler._last_lr.0": NAN})),
    "best psnr nan": (Code.BEST_METRIC, W, source(matrix(), {"best_psnr": NAN})),
    "best loss below all": (Code.BEST_METRIC, W, source(matrix(), {"best_val_loss": -INF})),
    "best accuracy above all": (Code.BEST_METRIC, W, source(matrix(), {"best_acc": INF})),
    "loss nan": (Code.LOSS_NOT_FINITE, W, source(matrix(), {"loss": NAN})),
    "loss infinite": (Code.LOSS_NOT_FINITE, N, source(matrix(), {"val_loss": INF})),
    "average poisoned": (
        Code.AVERAGED_NOT_FINITE,
        E,
        source(averaged(matrix(), {"model/conv.weight": POISONED})),
    ),
    "live poisoned": (Code.LIVE_NOT_FINITE, N, source(averaged({"model/conv.weight": POISONED}, matrix()))),
}

IS_SILENT = {
    "a layer that has moved": source(layer()),
    "a layer as it is made": source(layer(mean=np.zeros(CHANNELS), var=np.ones(CHANNELS), count=0)),
    "a small variance": source(with_channel(1e-6)),
    "a collapsed variance under a dead weight": source(layer(var=np.zeros(CHANNELS), weight=1e-4, mean=np.ones(8))),
    "a variance a thousand times its family": source(with_channel(1e3)),
    "variances over many orders": source(layer(var=np.logspace(-4, 4, CHANNELS))),
    "a mean some deviations off": source(with_channel(50.0, of="mean")),
    "equal counts": source(layer() | layer("model/b2")),
    "an average that moved": source(averaged(layer(), layer(mean=np.ones(CHANNELS)))),
    "an average of a fresh model": source(
        averaged(*[layer(mean=np.zeros(CHANNELS), var=np.ones(CHANNELS), count=0)] * 2)
    ),
    "a random weight": source(matrix()),
    "a zero bias": source(matrix() | {"model/conv.bias": np.zeros(4, dtype=np.float32)}),
    "a constant norm weight": source(matrix() | {"model/norm.weight": np.ones(64, dtype=np.float32)}),
    "a tiny constant matrix": source(matrix(1.0, shape=(2, 2))),
    "a weight at the edge of half": source({"model/conv.weight": np.where(LIVE[0, 0] == LIVE, 65504, LIVE)}),
    "adam after steps": source(adam()),
    "adam before its first step": source(adam(step=0.0, moment=0.0)),
    "moments as narrow as their weights": source(
        {name: array.astype(np.float16) if array.ndim else array for name, array in adam().items()}
    ),
    "a fresh scale": source(matrix(), SCALER | {"scaler.scale": 65536.0}),
    "a scale that belongs to no scaler": source(matrix(), {"augment.scale": 0.0}),
    "a rate of zero": source(matrix(), {"optimizer.param_groups.0.lr": 0.0}),
    "a best loss that nothing has set": source(matrix(), {"best_loss": INF}),
    "a best psnr that nothing has set": source(matrix(), {"best_psnr": -INF}),
    "an infinite setting": source(matrix(), {"args.max_grad_norm": INF}),
    "a sound average": source(averaged(matrix(), matrix())),
}


@pytest.mark.parametrize("case", SPEAKS)
def test_what_is_wrong_or_unusual_gives_its_code_and_severity(case):
    code, severity, given = SPEAKS[case]
    assert (code, severity) in [(f.code, f.severity) for f in judge(given)]


@pytest.mark.parametrize("case", SPEAKS)
def test_no_other_error_stands_beside_it(case):
    code, _, given = SPEAKS[case]
    echoes = {Code.LIVE_NOT_FINITE: {Code.WEIGHT_NOT_FINITE}}
    errors = {f.code for f in judge(given) if f.severity is E}
    assert errors <= {code} | echoes.get(code, set())


@pytest.mark.parametrize("case", IS_SILENT)
def test_what_is_usual_gives_no_finding(case):
    assert [(f.code.value, f.place, f.detail) for f in judge(IS_SILENT[case])] == []


def test_every_code_about_what_a_checkpoint_holds_has_a_case():
    assert {code for code, _, _ in SPEAKS.values()} == {
        code for code in Code if code.family not in ("TM6", "TM7", "TM9")
    }


def test_findings_that_have_no_counts_of_their_own_tell_their_figures():
    for code, _, given in SPEAKS.values():
        for finding in judge(given):
            if finding.measure is None or not (finding.measure.nonfinite or finding.measure.negative):
                assert finding.detail or code is Code.WEIGHT_ALL_ZERO, finding.code


def test_a_long_history_of_nan_gives_one_finding():
    history = {f"history.losses.{n}": NAN for n in range(40)}
    assert [f.code for f in judge(source(matrix(), history))] == [Code.LOSS_NOT_FINITE]


def test_counts_of_zero_in_all_layers_give_one_note():
    given = source({k: v for n in range(5) for k, v in layer(f"model/b{n}", count=0).items()})
    (finding,) = judge(given)
    assert "5 of 5 layers" in finding.detail


def test_the_channel_that_is_far_out_is_named():
    (finding,) = [f for f in judge(source(with_channel(1e9, at=6))) if f.code is Code.STATISTIC_OUTLIER]
    assert "channel 6 of 8" in finding.detail


def test_a_poisoned_average_is_told_by_its_own_code_alone():
    _, _, given = SPEAKS["average poisoned"]
    assert [f.code for f in judge(given)] == [Code.AVERAGED_NOT_FINITE]


def test_an_average_whose_live_twin_is_damaged_too_is_a_damaged_weight():
    poisoned = {"model/conv.weight": POISONED}
    assert {f.code for f in judge(source(averaged(poisoned, poisoned)))} == {Code.WEIGHT_NOT_FINITE}


def test_findings_come_worst_first():
    arrays = layer(count=0) | with_channel(NAN) | {"model/conv.weight": POISONED}
    severities = [f.severity for f in judge(source(arrays, {"best_psnr": NAN}))]
    assert severities == sorted(severities, reverse=True)
