"""How long the scans of WaveSSM-X take, and how much memory, beside a plain loop, side by side in one run.

    python benchmarks/wavessm_x/scan.py [--length 4096] [--rounds 3]

Writes `scan.json` and `SCAN.md` beside this file (Linux). Every measurement is a process of its own with one
thread, forward and backward: first for its memory, then for its time. Within a round the methods run one after the
other, and medians of the rounds are told. The rates are scalars a head, so that all methods compute the same.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import machine, peak_anew, peak_mb, sentence, taken
from torch import Tensor

from wavessm_x.model.scan import selective_scan
from wavessm_x.model.ssd import ssd_scan

HERE = Path(__file__).parent
BATCH, INNER, STATES, HEADS = 4, 128, 16, 4
WARM_UP = 64
"""Tokens of the scan that loads all code before memory is measured."""
METHODS = {
    "exact": "`selective_scan`: chunks in an autograd function, a matrix A",
    "ssd": "`ssd_scan`: matrix products in chunks, a scalar A a head",
    "loop": "a plain loop over the tokens, recorded by autograd",
}


def main() -> None:
    options = _options()
    if options.child:
        print(json.dumps(_measured(options.child, options.length, options.reference)))
        return
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.pt"
        torch.save(_value_and_gradients("loop", _inputs(options.length, torch.float64)), reference)
        rounds = [
            {method: _child(method, options.length, reference) for method in METHODS} for _ in range(options.rounds)
        ]
    medians = {
        method: {key: statistics.median(each[method][key] for each in rounds) for key in rounds[0][method]}
        for method in METHODS
    }
    results = {
        "machine": about,
        "length": options.length,
        "medians": medians,
        "rounds": rounds,
    }
    (HERE / "scan.json").write_text(json.dumps(results, indent=2) + "\n")
    (HERE / "SCAN.md").write_text(_page(results))
    print(_page(results))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--reference", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _inputs(length: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = ((BATCH, length, INNER), (BATCH, length, STATES), (BATCH, length, STATES), (INNER,))
    u, b, c, d = (torch.randn(*size, generator=generator) for size in sizes)
    dt = torch.rand(BATCH, length, generator=generator) * 0.1
    a = -torch.linspace(1, STATES, HEADS)
    return [each.to(dtype).requires_grad_() for each in (u, dt, a, b, c, d)]


def _scan(method: str, given: list[Tensor]) -> Tensor:
    u, dt, a, b, c, d = given
    if method == "ssd":
        return ssd_scan(u, dt, a, b, c, d)
    matrix = a.repeat_interleave(INNER // HEADS)[:, None].expand(INNER, STATES)
    scan = selective_scan if method == "exact" else loop
    return scan(u, dt, matrix, b, c, d)


def loop(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    state = u.new_zeros(u.shape[0], *a.shape)
    outputs = []
    for u_t, dt_t, b_t, c_t in zip(*(each.unbind(1) for each in (u, dt, b, c)), strict=True):
        step = dt_t[:, None, None]
        state = torch.exp(step * a) * state + (step * u_t[:, :, None]) * b_t[:, None, :]
        outputs.append((state @ c_t[:, :, None]).squeeze(-1) + d * u_t)
    return torch.stack(outputs, dim=1)


def _value_and_gradients(method: str, given: list[Tensor]) -> list[Tensor]:
    output = _scan(method, given)
    pull = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output.detach(), *torch.autograd.grad(output, given, pull)]


def _measured(method: str, length: int, reference: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    _value_and_gradients(method, _inputs(WARM_UP, torch.float32))
    given = _inputs(length, torch.float32)
    peak_anew()
    before = peak_mb()
    found = _value_and_gradients(method, given)
    memory = peak_mb() - before
    seconds, cpu_seconds = taken(lambda: _value_and_gradients(method, given))
    measured = {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory_mb": memory}
    errors = [
        float((each.double() - expected).norm() / expected.norm())
        for each, expected in zip(found, torch.load(reference), strict=True)
    ]
    return measured | {"error": errors[0], "gradient_error": max(errors[1:])}


def _child(method: str, length: int, reference: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", method, "--length", str(length), "--reference", str(reference)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _page(results: dict) -> str:
    medians = results["medians"]
    rows = "\n".join(
        f"| {METHODS[method]} "
        f"| {each['seconds']:.2f} | {each['cpu_seconds']:.2f} "
        f"| {medians['loop']['cpu_seconds'] / each['cpu_seconds']:.0f} | {each['memory_mb']:.0f} "
        f"| {each['error']:.0e} | {each['gradient_error']:.0e} |"
        for method, each in medians.items()
    )
    return f"""# The selective scan

    python benchmarks/wavessm_x/scan.py

Forward and backward, batch {BATCH}, {results["length"]} tokens, {INNER} channels, {STATES} states, {HEADS} heads,
single precision; medians of {len(results["rounds"])} rounds, side by side.
{sentence(results["machine"])}

| method | seconds | on the CPU | times the loop's speed | memory at most, MiB | error | of gradients |
| --- | --- | --- | --- | --- | --- | --- |
{rows}

The speed is compared by the seconds on the CPU. Errors are relative to the same loop in double precision, in the
Euclidean norm; that of gradients is the worst of the six. Memory is what the process's peak grew by, so it includes the
output and the gradients.
"""


if __name__ == "__main__":
    main()
