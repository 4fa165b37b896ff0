"""What all protections of WaveSSM-X cost: steps of the real trainer with them, and with `TORCHMEND_GUARD=off`, in turn.

    python benchmarks/wavessm_x/protection.py [--rounds tiny=40 base=8]

Writes `protection.json` and `PROTECTION.md` beside this file (Linux). The trainer without a guard clips its gradients
with `clip_grad_norm_`. A third one does in every step what is otherwise done every 50 steps (sampled sensors) or every
100 (health checks, snapshots); what it adds, divided by 50, is more than these add to an average step.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from measuring import Times, in_turn, machine, sentence

import torchmend
from torchmend.live.guard.ring import Ring
from wavessm_x.config import DataConfig, ModelConfig, TrainConfig
from wavessm_x.data.synthetic import photographs
from wavessm_x.training.loop import Loop
from wavessm_x.training.setup import Parts, make_fabric, put_together
from wavessm_x.training.state import Progress
from wavessm_x.training.watch import Watch

HERE = Path(__file__).parent
SIDE, BATCH = 64, 2
ITERATION = 6001
"""Of the training that a step is taken from: all losses count in full."""
SELDOM = 50
"""Steps between two of what is done most often of all that is not done in every step."""
ALWAYS = {"sample_every": 1, "ring": Ring(every=1, most_bytes=2 << 30)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", nargs="+", default=["tiny=40", "base=8"], help="of each preset")
    rounds = {name: int(count) for name, _, count in (each.partition("=") for each in parser.parse_args().rounds)}
    torch.set_num_threads(1)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        photographs(Path(folder), 10, SIDE, 0)
        found = {name: costs(in_turn(trainers(name, Path(folder)), count)) for name, count in rounds.items()}
    results = {"machine": about, "rounds": rounds, "presets": found}
    (HERE / "protection.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "PROTECTION.md").write_text(page(results))
    print(page(results))


def trainers(preset: str, folder: Path) -> dict[str, Callable[[], object]]:
    """Return a step of each trainer: without a guard, with it, and with one that does everything in every step."""
    with patch.dict(os.environ, TORCHMEND_GUARD="off"):
        off = parts_of(preset, folder)

    def clip(*_: object) -> None:
        torch.nn.utils.clip_grad_norm_(off.model.parameters(), TrainConfig().clip)

    off.optimizer.register_step_pre_hook(clip)
    with patch.object(torchmend, "Guard", partial(torchmend.Guard, **ALWAYS)):
        always = parts_of(preset, folder, health_every=1)
    on = parts_of(preset, folder)
    return {name: step(parts, folder) for name, parts in {"off": off, "on": on, "always": always}.items()}


def parts_of(preset: str, folder: Path, **changed: int) -> Parts:
    data, config = configs(folder)
    config = TrainConfig(model_file=config.model_file, **changed)
    return put_together(ModelConfig.preset(preset), data, config, make_fabric(config, "cpu", 1))


def configs(folder: Path) -> tuple[DataConfig, TrainConfig]:
    return DataConfig(data_path=folder, patch_size=SIDE, workers=0), TrainConfig(
        model_file=folder / "run" / "model.pth"
    )


def step(parts: Parts, folder: Path) -> Callable[[], object]:
    data, config = configs(folder)
    watch = Watch(config, 0, is_main=False)
    loop = Loop(parts, Progress(iteration=ITERATION), watch, parts.model.config, data, config)
    parts.forward.train()
    image, target = torch.rand(2, BATCH, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    batches = itertools.repeat({"image": image, "target": target, "mask": torch.zeros(BATCH, 1, SIDE, SIDE)})
    return lambda: loop._step(batches)


def costs(times: Times) -> dict[str, float]:
    """Return medians in seconds of the CPU, and the ratios within rounds."""
    cpu = {name: [spent for _, spent in each] for name, each in times.items()}
    medians = {name: statistics.median(each) for name, each in cpu.items()}
    lower, ratio, upper = statistics.quantiles(on / off for on, off in zip(cpu["on"], cpu["off"], strict=True))
    clock = statistics.median(on[0] / off[0] for on, off in zip(times["on"], times["off"], strict=True))
    rounds = zip(cpu["always"], cpu["on"], cpu["off"], strict=True)
    always = statistics.median((always - on) / off for always, on, off in rounds)
    return {
        **medians,
        "ratio": ratio,
        "lower": lower,
        "upper": upper,
        "ratio_on_the_clock": clock,
        "seldom": always / SELDOM,
    }


def page(results: dict) -> str:
    rounds = results["rounds"]
    rows = "\n".join(
        f"| `{name}` | {rounds[name]} | {1e3 * each['off']:.0f} | {1e3 * each['on']:.0f} "
        f"| {each['ratio']:.3f} | {each['lower']:.3f} to {each['upper']:.3f} | {each['ratio_on_the_clock']:.3f} "
        f"| {each['seldom']:.3f} | {each['ratio'] + each['seldom']:.3f} |"
        for name, each in results["presets"].items()
    )
    return f"""# All protections

    python benchmarks/wavessm_x/protection.py

Steps of the real trainer, with its losses, clipping, AdamW, schedule and averaged weights; {SIDE} x {SIDE},
batch {BATCH}, single precision. Without a guard (`TORCHMEND_GUARD=off`) gradients are clipped by `clip_grad_norm_`;
with it, the guard does all of the recipe. Milliseconds of CPU time, medians of rounds, in turn in one process; ratios
within rounds.
{sentence(results["machine"])}

| preset | rounds | unguarded, ms | guarded | ratio | its quartiles | on the clock | now and then, at most | together |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"Now and then" is what sampled sensors (every 50 steps), health checks and snapshots (every 100) add to an average step,
as a share of the unguarded one; it is measured by doing all of them in every step, and divided by 50. Where the
quartiles lie on both sides of 1, what the guard adds to an ordinary step is less than the machine's noise lets see.
"""


if __name__ == "__main__":
    main()
