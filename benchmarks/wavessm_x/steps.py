"""What a training step of WaveSSM-X costs, beside a plain U-Net of as many parameters and a scan in a plain loop.

    python benchmarks/wavessm_x/steps.py [--rounds 3] [--sides 32 64]

Writes `steps.json` and `STEPS.md` beside this file (Linux). A step is the forward pass, all losses but the perceptual
one, the backward pass and AdamW. The contestants take turns in one process with one thread; ratios are the medians of
the ratios within rounds. Memory is measured by a process of its own each.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import Times, in_turn, machine, peak_anew, peak_mb, sentence
from torch import nn
from unet import count, unet_of

from scan import loop
from wavessm_x.config import ModelConfig
from wavessm_x.losses import Losses
from wavessm_x.model import Inpainting
from wavessm_x.model.ssm import FrequencyAdaptiveSsm
from wavessm_x.optim import make_optimizer

HERE = Path(__file__).parent
BATCH = 2
LOOP_UP_TO = 32
"""The largest side at which the loop runs; it takes and holds too much beyond."""
WARM_UP = 16
"""The side of the pictures of the step that loads all code before memory is measured."""
CONTESTANTS = {
    "exact": "`base`, exact scan",
    "ssd": "`base`, SSD scan",
    "unet": "plain U-Net",
    "loop": "`base`, the exact scan as a loop over the tokens",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--memory-of", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory_of:
        print(memory(options.memory_of, options.sides[0]))
        return
    results = {
        "machine": machine(),
        "rounds": options.rounds,
        "parameters": {name: count(model(name)) for name in CONTESTANTS},
        "sides": {side: measured(side, options.rounds) for side in options.sides},
    }
    (HERE / "steps.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "STEPS.md").write_text(page(results))
    print(page(results))


def measured(side: int, rounds: int) -> dict[str, dict[str, float]]:
    names = [name for name in CONTESTANTS if name != "loop" or side <= LOOP_UP_TO]
    times = in_turn({name: step(name, side) for name in names}, rounds)
    return {name: figures(times, name) | {"memory_mb": memory_of(name, side)} for name in names}


def figures(times: Times, name: str) -> dict[str, float]:
    clock, cpu = (statistics.median(column) for column in zip(*times[name], strict=True))
    ratios = [mine[1] / other[1] for mine, other in zip(times[name], times["unet"], strict=True)]
    return {"seconds": clock, "cpu_seconds": cpu, "ratio": statistics.median(ratios)}


def model(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "unet":
        return unet_of(count(model("exact")))
    made = Inpainting(ModelConfig.preset("base", ssm="ssd" if name == "ssd" else "exact"))
    for module in made.modules():
        if name == "loop" and isinstance(module, FrequencyAdaptiveSsm):
            module.scan = loop
    return made


def step(name: str, side: int) -> Callable[[], None]:
    trained = model(name).train()
    optimizer = make_optimizer(trained, 1e-4, 1e-4)
    losses = Losses((1.0, 0.0, 1.0, 0.5, 0.3), num_iter=1)
    image, target = torch.rand(2, BATCH, 3, side, side)

    def train() -> None:
        total, _ = losses(trained(image), target, 1)  # the last iteration: all terms count in full
        total.backward()
        optimizer.step()
        optimizer.zero_grad()

    return train


def memory(name: str, side: int) -> float:
    """Return the MiB at most that two steps, their model and optimizer take."""
    step(name, WARM_UP)()
    peak_anew()
    before = peak_mb()
    train = step(name, side)
    train()
    train()
    return peak_mb() - before


def memory_of(name: str, side: int) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--sides", str(side)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def page(results: dict) -> str:
    parameters, rounds = results["parameters"], results["rounds"]
    tables = "\n\n".join(table(side, found, parameters) for side, found in results["sides"].items())
    return f"""# A training step

    python benchmarks/wavessm_x/steps.py

Forward, all losses but the perceptual one, backward, AdamW; batch {BATCH}, single precision, no guard. The U-Net is
built of torch's own layers in the same run: pairs of 3x3 convolutions with BatchNorm and ReLU, max-pooling, transposed
convolutions; its width is the one that brings its parameters closest to those of `base`. Medians of {rounds} rounds, in
turn in one process; ratios to the U-Net are of seconds on the CPU, within rounds. Memory is the most that model,
optimizer and two steps take, each in a process of its own.
{sentence(results["machine"])}

{tables}

The loop, recorded by autograd token by token, is left out above {LOOP_UP_TO} x {LOOP_UP_TO}: it takes too long.
"""


def table(side: int, found: dict, parameters: dict) -> str:
    rows = "\n".join(
        f"| {CONTESTANTS[name]} | {parameters[name]:,} | {each['cpu_seconds']:.2f} | {each['seconds']:.2f} "
        f"| {each['ratio']:.2f} | {each['memory_mb']:.0f} |"
        for name, each in found.items()
    )
    return f"""## {side} x {side}

| network | parameters | seconds on the CPU | on the clock | times the U-Net's | memory at most, MiB |
| --- | --- | --- | --- | --- | --- |
{rows}"""


if __name__ == "__main__":
    main()
