"""Time SSIM as a loss, forward and backward, beside that of torchmetrics: CPU seconds of one thread, medians of pairs.

python benchmarks/wavessm_x/ssim.py
"""

import statistics
import time

import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from wavessm_x.losses.similarity import similarity

REPEATS = 15


def seconds(measure, output, target):
    start = time.process_time()
    measure(output, target).backward()
    return time.process_time() - start


def ours(output, target):
    return similarity(output, target).mean()


def theirs(output, target):
    return structural_similarity_index_measure(output, target, data_range=1.0)


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| batch | ours (ms) | torchmetrics (ms) | ratio |\n|---|---|---|---|")
    for side in (64, 128, 256):
        target = torch.rand(4, 3, side, side)
        output = torch.rand(4, 3, side, side, requires_grad=True)
        pairs = [(seconds(ours, output, target), seconds(theirs, output, target)) for _ in range(REPEATS + 2)][2:]
        mine, other = (1000 * statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(second / first for first, second in pairs)
        print(f"| 4x3x{side}x{side} | {mine:.1f} | {other:.1f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
