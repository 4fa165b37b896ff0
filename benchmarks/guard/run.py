"""What the guard costs: paired steps with it and without, in one process, in turn.

    python benchmarks/guard/run.py [--rounds 40]

Writes `results.json` and `README.md` beside this file. A round times one step of each contestant in turn, on models
that are equal, and each round begins with another one; the figure is the median over the rounds. What happens in some
steps only is timed by itself and divided: a sampled sensor in a guard that samples every step, the periodic check and a
snapshot by their own calls. Blocks of a hundred steps, in turn, give the ratio of everything together.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchmend.live.guard.buffers import BufferStore
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.options import GuardOptions
from torchmend.live.guard.ring import Ring, Snapshots
from torchmend.live.guard.sensing.catalogue import COSTS, Cost, Sensor
from torchmend.live.guard.sensing.reading import measure, observation

HERE = Path(__file__).parent
Step = Callable[[], None]
Make = Callable[[], tuple[nn.Module, Tensor, Tensor]]


class Block(nn.Module):
    """A residual block of a network for pictures of 32 x 32."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, images: Tensor) -> Tensor:
        return functional.relu(self.body(images) + self.skip(images))


def resnet() -> tuple[nn.Module, Tensor, Tensor]:
    blocks = [
        Block(16, 16, 1),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 32, 1),
        Block(32, 64, 2),
        Block(64, 64, 1),
    ]
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return model, torch.randn(32, 3, 32, 32), torch.randint(0, 10, (32,))


class Gpt(nn.Module):
    """A small decoder of words."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True, norm_first=True)
        self.embed, self.body = nn.Embedding(256, 128), nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.out = nn.Linear(128, 256)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.out(self.body(self.embed(tokens), mask=mask, is_causal=True)).transpose(1, 2)


def gpt() -> tuple[nn.Module, Tensor, Tensor]:
    return Gpt(), torch.randint(0, 256, (8, 64)), torch.randint(0, 256, (8, 64))


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    return model, torch.randn(64, 32), torch.randint(0, 10, (64,))


class Run:
    """A training whose steps are timed.

    Args:
        make: Makes the network and its batch.
        options: Of the guard; None trains without one.
        observed: Whether the guard is told the loss.
    """

    def __init__(self, make: Make, options: dict[str, Any] | None, *, observed: bool = False) -> None:
        torch.manual_seed(0)
        self.model, self.inputs, self.targets = make()
        lazy = options is not None and options.get("lazy", False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), 1e-4, fused=lazy or None)
        self.guard = None if options is None else Guard(self.model, self.optimizer, **options)
        self.observed = observed

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.model(self.inputs), self.targets)
        if self.observed and self.guard is not None:
            self.guard.observe(loss)
        loss.backward()
        self.optimizer.step()


def paired(contestants: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return each contestant's median in milliseconds; they take turns, each round from another one on."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    order = list(contestants.items())
    for at in range(rounds + 5):
        first = at % len(order)
        for name, step in order[first:] + order[:first]:
            start = time.perf_counter()
            step()
            if at >= 5:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def in_every_step(make: Make, rounds: int) -> dict[str, float]:
    """Time ordinary steps: plain, with each sensor alone that looks at every step, and with all."""
    never = {"check_every": 0, "sample_every": 10**9}
    alone = {s: [s] for s in Sensor if COSTS[s] in (Cost.STEP, Cost.HOST)}
    runs = {
        "plain": Run(make, None),
        **{s.value: Run(make, {"sensors": names, **never}, observed=True) for s, names in alone.items()},
        "defaults": Run(make, {}),
        "defaults, loss observed": Run(make, {}, observed=True),
    }
    times = paired({name: run.step for name, run in runs.items()}, rounds)
    fused = {"plain, fused": Run(make, {"lazy": True}), "lazy": Run(make, {"lazy": True})}
    fused["plain, fused"].guard.detach()
    return times | paired({name: run.step for name, run in fused.items()}, rounds)


def now_and_then(make: Make, rounds: int) -> dict[str, float]:
    """Time what happens in some steps only: milliseconds each time."""
    defaults = GuardOptions()
    names = [s for s in Sensor if COSTS[s] is Cost.SAMPLED]
    runs = {"none": Run(make, {"sensors": [], "check_every": 0})}
    runs |= {s.value: Run(make, {"sensors": [s], "check_every": 0, "sample_every": 1}) for s in names}
    for run in runs.values():
        for _ in range(60):  # past the warm-up of calibration
            run.step()
    times = paired({name: run.step for name, run in runs.items()}, rounds)
    run = Run(make, {})
    run.step()
    snapshots = Snapshots(Ring(), [run.model], [run.optimizer], [])
    whole = paired({"check": run.guard.check, "snapshot": lambda: snapshots.take(0)}, rounds)
    return {
        **{s.value: (times[s.value] - times["none"]) / defaults.sample_every for s in names},
        "state": whole["check"] / defaults.check_every,
        "snapshot": whole["snapshot"] / defaults.ring.every,
        "a snapshot, megabytes": snapshots.nbytes / 1e6 / Ring().keep,
        "buffers kept, megabytes": run.guard.transactions[0].buffers.nbytes / 1e6,
    }


def together(make: Make, blocks: int) -> float:
    """Return the ratio of blocks of a hundred steps with all defaults to blocks without a guard."""
    runs = {"plain": Run(make, None), "guarded": Run(make, {}, observed=True)}

    def block(run: Run) -> Step:
        return lambda: [run.step() for _ in range(100)] and None

    times: dict[str, list[float]] = {name: [] for name in runs}
    for at in range(blocks):
        for name in ("plain", "guarded") if at % 2 else ("guarded", "plain"):
            start = time.perf_counter()
            block(runs[name])()
            times[name].append(time.perf_counter() - start)
    return statistics.median(g / p for g, p in zip(times["guarded"], times["plain"], strict=True))


def norms_of_resnet50() -> nn.Module:
    """Return the 53 BatchNorm layers of a ResNet-50, alone."""
    widths = [64]
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        widths += [width, width, 4 * width, 4 * width, *[width, width, 4 * width] * (depth - 1)]
    return nn.Sequential(*(nn.BatchNorm2d(width) for width in widths))


def check_of_statistics(rounds: int) -> dict[str, float]:
    store = BufferStore(norms_of_resnet50().named_modules())
    store.save()

    def look() -> None:
        figures = measure((), store.watched())
        observation(figures, figures.values.tolist())

    return paired({"look at all": look, "keep a copy": store.save}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    results: dict[str, Any] = {
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    }
    for make, times in ((resnet, 1), (gpt, 1), (mlp, 10)):
        results[make.__name__] = {
            "steps": in_every_step(make, rounds * times),
            "now and then": now_and_then(make, rounds),
            "together": together(make, 7),
        }
    results["statistics of a ResNet-50"] = check_of_statistics(10 * rounds)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "README.md").write_text(page(results, rounds))
    print(page(results, rounds))


NETWORKS = ("resnet", "gpt", "mlp")


def page(results: dict, rounds: int) -> str:
    machine = results["machine"]
    check = results["statistics of a ResNet-50"]
    where = f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}"
    return f"""# What the guard costs

    python benchmarks/guard/run.py

Eager mode, CPU, {where}; AdamW; paired steps in one process, medians
of {rounds} rounds (ten times as many for the perceptron). The networks: a ResNet for pictures of 32 x 32 (batch 32), a
decoder of 4 layers and 128 channels (8 x 64 tokens), a perceptron with one BatchNorm layer (batch 64).

| network | plain, ms | defaults, ms | ratio | added, microseconds | loss observed | blocks of 100 |
|---|---|---|---|---|---|---|
{chr(10).join(_defaults(name, results[name]) for name in NETWORKS)}

The last column times blocks of a hundred steps, with sampled sensors, the periodic check and a snapshot in them.

Without any wait, against the same fused optimizer without a guard:

| network | plain, ms | lazy, ms | ratio |
|---|---|---|---|
{chr(10).join(_lazy(name, results[name]) for name in NETWORKS)}

What each part adds to an average step, in microseconds; a sensor that looks at every step is a guard with this sensor
alone, which includes what every guard does (hooks, copies of buffers, the policy):

| part | cost class | {" | ".join(NETWORKS)} |
|---|---|{"---|" * len(NETWORKS)}
{chr(10).join(_parts(results))}

| network | copies of buffers, MB | a snapshot, MB (the ring keeps two) |
|---|---|---|
{chr(10).join(_memory(name, results[name]) for name in NETWORKS)}

All 53 BatchNorm layers of a ResNet-50: looked at in {check["look at all"]:.3f} ms, copied in
{check["keep a copy"]:.3f} ms.
"""


def _defaults(name: str, result: dict) -> str:
    steps = result["steps"]
    plain, guarded, observed = steps["plain"], steps["defaults"], steps["defaults, loss observed"]
    return (
        f"| {name} | {plain:.2f} | {guarded:.2f} | {guarded / plain:.3f} | {1e3 * (guarded - plain):.0f} | "
        f"{observed / plain:.3f} | {result['together']:.3f} |"
    )


def _lazy(name: str, result: dict) -> str:
    plain, lazy = result["steps"]["plain, fused"], result["steps"]["lazy"]
    return f"| {name} | {plain:.2f} | {lazy:.2f} | {lazy / plain:.3f} |"


def _parts(results: dict) -> list[str]:
    rows = []
    for sensor in Sensor:
        cost = COSTS[sensor]
        if cost in (Cost.STEP, Cost.HOST):
            added = [1e3 * (results[n]["steps"][sensor.value] - results[n]["steps"]["plain"]) for n in NETWORKS]
        elif sensor.value in results[NETWORKS[0]]["now and then"]:
            added = [1e3 * results[n]["now and then"][sensor.value] for n in NETWORKS]
        else:
            continue
        rows.append(f"| {sensor.value} | {cost.value} | {' | '.join(f'{each:.0f}' for each in added)} |")
    added = [1e3 * results[n]["now and then"]["snapshot"] for n in NETWORKS]
    return [*rows, f"| a snapshot of the ring | periodic | {' | '.join(f'{each:.0f}' for each in added)} |"]


def _memory(name: str, result: dict) -> str:
    parts = result["now and then"]
    return f"| {name} | {parts['buffers kept, megabytes']:.3f} | {parts['a snapshot, megabytes']:.1f} |"


if __name__ == "__main__":
    main()
