"""What `torchmend.stabilise` cures, and what it costs.

    python benchmarks/stabilise/run.py [--seeds 1] [--dry-run]

Writes `results.json` and `README.md` beside this file. The cures are cases of `benchmarks/faults` that overflow in
float16: the run is stabilised before its first step, on the batch that is known to overflow, and once more on the first
batch whose loss is not finite. The costs are medians of forward and backward passes with and without it, by turns.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

import torchmend  # noqa: E402  # the path comes first
from benchmarks.faults.cases import CASES  # noqa: E402
from benchmarks.faults.protections import Nothing  # noqa: E402
from benchmarks.faults.training import Training, run  # noqa: E402
from torchmend.live.stabilising.measuring import PAIRS  # noqa: E402

CURED = ("fft_fp16_overflow", "rmsnorm_fp16_overflow", "adam_fp16_eps", "ffn_fp16_headroom", "bn_amp_overflow")


class Stabilising(Nothing):
    """Stabilises before the first step, and on the first loss that is not finite."""

    onset = 0
    norms = False

    def __init__(self, training: Training) -> None:
        super().__init__(training)
        self.handles = [self._stabilise(self.onset)]

    def _stabilise(self, step: int) -> torchmend.Stabilised:
        return torchmend.stabilise(
            self.training.model,
            self.training.optimizer,
            batch=step,
            forward=lambda _, step: self.training.loss(step),
            norms=self.norms,
        )

    def backward(self, loss: Tensor) -> bool:
        if not loss.isfinite() and len(self.handles) == 1:
            self.handles.append(self._stabilise(self.now))
            loss = self.training.loss(self.now)
        return super().backward(loss)


class StabilisingNorms(Stabilising):
    """The same, with the settings of BatchNorm as well."""

    norms = True


class All(Stabilising):
    """Puts every module inside the model into float32 and is done."""

    def _stabilise(self, _: int) -> torchmend.Stabilised:
        names = [name for name, _ in self.training.model.named_children()]
        return torchmend.stabilise(self.training.model, self.training.optimizer, modules=names, norms=False)


RUNS = {
    "clean": Nothing,
    "faulty": Nothing,
    "stabilised": Stabilising,
    "with norms": StabilisingNorms,
    "all float32": All,
}
"""Whose figures stand side by side."""

REMARKS = """\
- fft_fp16_overflow casts to float16 by hand, in its own code; nothing outside can change that, and it is said.
- bn_amp_overflow: the saturated frames no longer give Inf, but they are real outliers: running statistics stay far off
  for the rest of the run, and do so in float32 as well. To leave such batches out is the guard's work.
"""


def cures(seeds: int) -> dict[str, dict[str, list[float] | str]]:
    """Return final metrics of each case, and what was done in the last run."""
    found = {}
    for case in (each for each in CASES if each.name in CURED):
        row: dict[str, list[float]] = {name: [] for name in RUNS}
        told = ""
        for seed in range(seeds):
            for name, kind in RUNS.items():
                torch.manual_seed(seed)
                training = case.make(seed, name != "clean")
                Stabilising.onset = case.onset
                protection = kind(training)
                row[name].append(run(training, protection).metric)
                if name == "stabilised":
                    lines = [line for handle in protection.handles for line in str(handle).splitlines()]
                    told = "; ".join(dict.fromkeys(lines))
        found[case.name] = {**row, "told": told}
        print(case.name, found[case.name], file=sys.stderr)
    return found


class Rms(nn.Module):
    """A normalisation written by hand."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, rows: Tensor) -> Tensor:
        return self.weight * (rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-5))


class Block(nn.Module):
    """A transformer's block, whose attention is written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.norm2, self.mix, self.out = (
            Rms(width),
            Rms(width),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, rows: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm(rows)).chunk(3, -1)
        scores = torch.softmax(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5, -1)
        rows = rows + self.out(scores @ value)
        return rows + self.down(functional.gelu(self.up(self.norm2(rows))))


def transformer() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(*(Block(128) for _ in range(4)), nn.Linear(128, 10)), torch.randn(4, 64, 128)


def perceptron() -> tuple[nn.Module, Tensor]:
    layers: list[nn.Module] = [nn.Linear(64, 512), nn.BatchNorm1d(512), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(512, 10)), torch.randn(128, 64)


COSTS = (
    ("transformer, 4 blocks of 128", "its 8 hand-written norms", transformer, Rms),
    ("transformer, 4 blocks of 128", "1 of 4 blocks", transformer, "0"),
    ("transformer, 4 blocks of 128", "all blocks", transformer, Block),
    ("perceptron, 4 layers of 512", "the first layer", perceptron, "0"),
    ("perceptron, 4 layers of 512", "the second layer", perceptron, "3"),
    ("perceptron, 4 layers of 512", "everything", perceptron, "Sequential"),
)


def costs() -> list[dict[str, object]]:
    """Return ratios of time and memory for some choices of modules."""
    found = []
    for model_name, what, make, modules in COSTS:
        torch.manual_seed(0)
        model, batch = make()
        cost = torchmend.stabilise(model, modules=modules, batch=batch, measure=True, norms=False).cost
        found.append(
            {
                "model": model_name,
                "what": what,
                "before_ms": round(1e3 * cost.seconds_before, 2),
                "after_ms": round(1e3 * cost.seconds_after, 2),
                "ratio": round(cost.ratio, 2),
                "kept": round(cost.bytes_after / cost.bytes_before, 2),
            }
        )
        print(found[-1], file=sys.stderr)
    return found


def microseconds_a_call(calls: int = 2000) -> float:
    """Return what a call of a module in float32 takes longer, by turns, where there is nothing to cast."""
    module, rows = nn.Identity(), torch.randn(4, 4)
    handle = torchmend.stabilise(module, modules="Identity")

    def took() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            module(rows)
        return 1e6 * (time.perf_counter() - start) / calls

    differences = []
    with torch.autocast("cpu", torch.float16):
        for _ in range(PAIRS):
            after = took()
            handle.undo()
            differences.append(after - took())
            handle = torchmend.stabilise(module, modules="Identity")
    return statistics.median(differences)


def page(results: dict) -> str:
    """Return the README."""
    machine = results["machine"]
    seen = (
        f"A busy machine of {machine['cores']} cores that others used at the same time (load {machine['load']} at the "
        f"end), one thread, Python {machine['python']}, torch {machine['torch']} on the CPU."
    )
    cured = (
        f"Cases of `benchmarks/faults`, final metric (higher is better), mean of {machine['seeds']} seeds. "
        "*Stabilised* is `stabilise(..., norms=False)`; *with norms* also sets BatchNorm's momentum to 0.01 and eps to "
        "1e-3; *all float32* puts every module inside the model into float32, overflowing or not."
    )
    cost = (
        f"A forward and backward pass under autocast to float16, medians of {PAIRS} pairs by turns; *kept* is what is "
        "kept for the backward pass, after to before. Times in float16 on a CPU say little about a GPU, where float32 "
        "is slower than float16: measure yours with `measure=True`. What is kept does not depend on the device."
    )
    lines = [
        "# What stabilising cures, and what it costs",
        "",
        "    python benchmarks/stabilise/run.py",
        "",
        seen,
        "",
        "## Cures",
        "",
        cured,
        "",
        f"| case | {' | '.join(RUNS)} |",
        "|---|" + "---|" * len(RUNS),
    ]
    for name, row in results["cures"].items():
        lines.append(f"| {name} | {' | '.join(f'{statistics.mean(row[each]):.3f}' for each in RUNS)} |")
    lines += ["", REMARKS, "What it said, with the last seed:", ""]
    lines += [f"- {name}: `{row['told']}`" for name, row in results["cures"].items()]
    lines += [
        "",
        "## Cost",
        "",
        cost,
        "",
        "| model | in float32 | before, ms | after, ms | ratio of times | kept |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['model']} | {row['what']} | {row['before_ms']} | {row['after_ms']} | {row['ratio']} | {row['kept']} |"
        for row in results["costs"]
    ]
    lines += [
        "",
        f"Each call of a module in float32 takes {results['microseconds_a_call']} microseconds more in itself.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = {"cures": cures(options.seeds), "costs": costs(), "microseconds_a_call": round(microseconds_a_call(), 1)}
    results["machine"] = {
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seeds": options.seeds,
    }
    print(page(results))
    if not options.dry_run:
        (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        (HERE / "README.md").write_text(page(results))


if __name__ == "__main__":
    main()
