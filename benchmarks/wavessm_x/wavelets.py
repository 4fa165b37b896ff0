"""Time the wavelet analysis, forward and backward, by matrix products and by a convolution: CPU time, medians of pairs.

python benchmarks/wavessm_x/wavelets.py
"""

import statistics
from collections.abc import Callable
from functools import partial

import torch
from measuring import in_turn
from torch import Tensor

from wavessm_x.model.wavelets import Wavelet

ROUNDS = 15


def both_passes(analyse: Callable[[Tensor], Tensor], features: Tensor, pull: Tensor) -> None:
    (analyse(features) * pull).sum().backward()


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    wavelet = Wavelet("db3")
    print("| features | products (ms) | convolution (ms) | ratio |\n|---|---|---|---|")
    for channels, side in ((128, 8), (64, 16), (32, 32), (16, 64), (16, 128), (16, 256)):
        features = torch.randn(2, channels, side, side, requires_grad=True)
        pull = torch.randn(2, channels, 4, side // 2, side // 2)
        ways = {"products": wavelet.analyse, "convolution": wavelet._convolved}
        calls = {name: partial(both_passes, way, features, pull) for name, way in ways.items()}
        cpu = [[1e3 * spent for _, spent in each] for each in in_turn(calls, ROUNDS).values()]
        ratio = statistics.median(slow / fast for fast, slow in zip(*cpu, strict=True))
        fast, slow = map(statistics.median, cpu)
        print(f"| 2x{channels}x{side}x{side} | {fast:.1f} | {slow:.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
