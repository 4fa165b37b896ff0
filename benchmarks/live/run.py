"""How fast `check_model_health` is on a live model, against the loop that everyone writes, side by side in one process.

    python benchmarks/live/run.py [--rounds 9] [--dry-run]

Writes `results.json` and `README.md` beside this file. The model has the tensors of a ResNet-50: 25.6 million float32
parameters, 53 BatchNorm layers. In each round the contestants run one after the other; figures are medians.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import torchmend
from torchmend.live.screening import is_statistic
from torchmend.live.source import LiveSource
from torchmend.measure.workers import available_cores
from torchmend.rules.judge import judge

HERE = Path(__file__).parent
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


def main() -> None:
    options = _options()
    torch.manual_seed(0)
    model = network()
    results = {
        "machine": {
            "cores": available_cores(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "rounds": options.rounds,
        },
        "model": {
            "parameters": sum(p.numel() for p in model.parameters()),
            "tensors": len(list(model.parameters())) + len(list(model.buffers())),
            "norms": sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()),
        },
        "all": _medians(_with_weights(model), options.rounds),
        "damaged": _medians(_damaged(), options.rounds),
        "statistics": _medians(_statistics_only(model), options.rounds),
        "parts": _medians(_parts(model), options.rounds),
    }
    print(_page(results))
    if not options.dry_run:
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "README.md").write_text(_page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dry-run", action="store_true", help="print only")
    return parser.parse_args()


def network() -> nn.Module:
    """Return bottleneck blocks with the sizes of a ResNet-50; they are never run."""
    layers = [_conv(3, 64, 7), nn.BatchNorm2d(64)]
    wide = 64
    for width, blocks in STAGES:
        for block in range(blocks):
            layers += [_conv(wide, width, 1), nn.BatchNorm2d(width)]
            layers += [_conv(width, width, 3), nn.BatchNorm2d(width)]
            layers += [_conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)]
            if block == 0:
                layers += [_conv(wide, 4 * width, 1), nn.BatchNorm2d(4 * width)]
            wide = 4 * width
    return nn.Sequential(*layers, nn.Linear(wide, 1000))


def _conv(wide: int, width: int, kernel: int) -> nn.Module:
    return nn.Conv2d(wide, width, kernel, bias=False)


def classic(tensors: list[torch.Tensor]) -> bool:
    """Look for NaN and Inf in one tensor after the other."""
    return not any(bool(torch.isnan(t).any() or torch.isinf(t).any()) for t in tensors)


def classic_isfinite(tensors: list[torch.Tensor]) -> bool:
    """The same in one pass a tensor."""
    return all(bool(torch.isfinite(t).all()) for t in tensors)


def _with_weights(model: nn.Module) -> dict[str, Callable[[], object]]:
    everything = [*model.parameters(), *model.buffers()]
    return {
        "classic": lambda: classic(everything),
        "isfinite": lambda: classic_isfinite(everything),
        "torchmend": lambda: torchmend.check_model_health(model, check_weights=True),
        "torchmend diagnose": lambda: torchmend.diagnose(model),
    }


def _damaged() -> dict[str, Callable[[], object]]:
    model = network()
    model[-2].running_mean[3] = float("nan")
    return {"torchmend": lambda: torchmend.check_model_health(model, check_weights=True)}


def _statistics_only(model: nn.Module) -> dict[str, Callable[[], object]]:
    buffers = [b for name, b in model.named_buffers() if is_statistic(name)]
    return {
        "classic": lambda: classic(buffers),
        "isfinite": lambda: classic_isfinite(buffers),
        "torchmend": lambda: torchmend.check_model_health(model),
    }


def _parts(model: nn.Module) -> dict[str, Callable[[], object]]:
    """Time what a check is made of: names and roles; measuring; rules."""
    measured = LiveSource(model)
    assert measured.measures

    def measuring() -> object:
        measured.__dict__.pop("measures")
        return measured.measures

    return {
        "names and roles": lambda: LiveSource(model),
        "measuring": measuring,
        "rules": lambda: judge(measured),
    }


def _medians(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run every contestant once a round, and once before; return each one's median in milliseconds."""
    for job in contestants.values():
        job()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, job in contestants.items():
            start = time.perf_counter()
            job()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(each) for name, each in times.items()}


def _page(results: dict) -> str:
    machine, model = results["machine"], results["model"]
    rows = []
    for title, group in (("all parameters and buffers", "all"), ("BatchNorm statistics only", "statistics")):
        figures = results[group]
        for name, took in figures.items():
            ratio = figures["classic"] / took
            rows.append(f"| {title} | {name} | {took:.2f} | {ratio:.1f} |")
    parts = ", ".join(f"{name} {took:.1f} ms" for name, took in results["parts"].items())
    return f"""# Checking a live model

    python benchmarks/live/run.py

{machine["cores"]} cores, Python {machine["python"]}, numpy {machine["numpy"]}, torch {machine["torch"]} (CPU),
{model["parameters"] / 1e6:.1f} million float32 parameters in {model["tensors"]} tensors, {model["norms"]} BatchNorm
layers; medians of {machine["rounds"]} rounds side by side in one process.

| what is checked | by | ms | times as fast as the classic loop |
|---|---|---|---|
{chr(10).join(rows)}

"Classic" is `torch.isnan(t).any() or torch.isinf(t).any()` for one tensor after the other, "isfinite" is
`torch.isfinite(t).all()`; "torchmend" is `check_model_health` on this healthy model. With one NaN in the last
BatchNorm it also has to name and count it: {results["damaged"]["torchmend"]:.1f} ms for everything.

Of `torchmend.diagnose`, which measures every tensor exactly: {parts}.
"""


if __name__ == "__main__":
    main()
