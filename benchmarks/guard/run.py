"""What the guard costs: paired steps with it and without, in one process, in turn.

    python benchmarks/guard/run.py [--rounds 40]

Writes `results.json` and `README.md` beside this file. A round times one step of each contestant, one after the other,
on models that are equal; the figure is the median over the rounds, and the ratio that of the medians.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from torchmend.live.guard.buffers import BufferStore
from torchmend.live.guard.guard import Guard
from torchmend.live.guard.sensors import look

HERE = Path(__file__).parent
Step = Callable[[], None]


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


def step_of(make: Callable[[], tuple[nn.Module, Tensor, Tensor]], *, guarded: bool, observed: bool) -> Step:
    """Make a step of a training; a guarded one with the defaults."""
    torch.manual_seed(0)
    model, inputs, targets = make()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    guard = Guard(model, optimizer) if guarded else None

    def step() -> None:
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        if observed and guard is not None:
            guard.observe(loss)
        loss.backward()
        optimizer.step()

    return step


def paired(contestants: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return each contestant's median in milliseconds; within a round they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for at in range(rounds + 5):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            if at >= 5:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(each) for name, each in times.items()}


def norms_of_resnet50() -> nn.Module:
    """Return the 53 BatchNorm layers of a ResNet-50, alone."""
    widths = [64]
    for width, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
        widths += [width, width, 4 * width, 4 * width, *[width, width, 4 * width] * (depth - 1)]
    return nn.Sequential(*(nn.BatchNorm2d(width) for width in widths))


def check_of_statistics(rounds: int) -> dict[str, float]:
    store = BufferStore(norms_of_resnet50().named_modules())
    slots = [slot for slot in store.slots if slot.key != "num_batches_tracked"]
    jobs: dict[str, Step] = {"look at all": lambda: look({}, slots, None) and None, "keep a copy": store.save}
    return paired(jobs, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    results: dict[str, object] = {
        "machine": {"python": platform.python_version(), "torch": torch.__version__, "threads": torch.get_num_threads()}
    }
    for make, times in ((resnet, 1), (gpt, 1), (mlp, 10)):
        results[make.__name__] = paired(
            {
                "plain": step_of(make, guarded=False, observed=False),
                "guarded": step_of(make, guarded=True, observed=False),
                "guarded, loss observed": step_of(make, guarded=True, observed=True),
            },
            rounds * times,
        )
    results["statistics of a ResNet-50"] = check_of_statistics(10 * rounds)
    (HERE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "README.md").write_text(page(results, rounds))
    print(page(results, rounds))


def page(results: dict, rounds: int) -> str:
    machine = results["machine"]
    rows = "\n".join(
        f"| {name} | {r['plain']:.2f} | {r['guarded']:.2f} | {r['guarded'] / r['plain']:.3f} | "
        f"{1e3 * (r['guarded'] - r['plain']):.0f} | {r['guarded, loss observed'] / r['plain']:.3f} |"
        for name, r in results.items()
        if isinstance(r, dict) and "plain" in r
    )
    check = results["statistics of a ResNet-50"]
    where = f"{machine['threads']} threads, Python {machine['python']}, torch {machine['torch']}"
    return f"""# What the guard costs

    python benchmarks/guard/run.py

Eager mode, CPU, {where};
paired steps in one process, medians of {rounds} rounds (ten times as many for the perceptron), AdamW, the defaults of
the guard.

| network | plain, ms | guarded, ms | ratio | added, microseconds | ratio with the loss observed |
|---|---|---|---|---|---|
{rows}

All 53 BatchNorm layers of a ResNet-50: looked at in {check["look at all"]:.3f} ms, copied in
{check["keep a copy"]:.3f} ms.

The networks: a ResNet for pictures of 32 x 32 (batch 32), a decoder of 4 layers and 128 channels (8 x 64 tokens), a
perceptron with one BatchNorm layer (batch 64).
"""


if __name__ == "__main__":
    main()
