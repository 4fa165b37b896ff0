"""How fast `torchmend diagnose` reads further formats and folders, of the raw read of their bytes.

    python benchmarks/scan/formats.py [--gigabytes 1] [--folder build/scan] [--rounds 9]

Writes `formats.json` and `FORMATS.md` beside this file: float32, in memory, medians of rounds side by side.
"""

import argparse
import json
import shutil
import statistics
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

from torchmend.doctor.diagnosing import diagnose_file
from torchmend.doctor.file_source import FileSource
from torchmend.measure.chunks import CHUNK_BYTES
from torchmend.measure.scan import PIECE_BYTES
from torchmend.measure.workers import this_machine, workers

HERE = Path(__file__).parent
TENSOR_BYTES = 32 << 20
State = dict[str, torch.Tensor]


def npz(state: State, folder: Path) -> Path:
    np.savez(folder / "large.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    return folder / "large.npz"


def sharded(state: State, folder: Path) -> Path:
    weight_map = {}
    names = list(state)
    for at in range(4):
        file = f"model-{at + 1:05}-of-00004.safetensors"
        save_file({name: state[name] for name in names[at::4]}, folder / file)
        weight_map |= dict.fromkeys(names[at::4], file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def distributed(state: State, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state}, checkpoint_id=folder / "step", no_dist=True)
    return folder / "step"


def deepspeed(state: State, folder: Path) -> Path:
    torch.save(
        {"module": {}, "param_shapes": [{name: tensor.shape for name, tensor in state.items()}]},
        folder / "mp_rank_00_model_states.pt",
    )
    flat = torch.cat([tensor.flatten() for tensor in state.values()])
    optimizer = {"zero_stage": 2, "single_partition_of_fp32_groups": [flat]}
    name = "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": optimizer}, folder / name)
    return folder


FORMATS: dict[str, Callable[[State, Path], Path]] = {
    "npz": npz,
    "sharded safetensors": sharded,
    "distributed checkpoint": distributed,
    "DeepSpeed": deepspeed,
}


def raw_read(path: Path) -> None:
    """Sum every byte of every file as int64, in the chunks and with the threads of the scan."""
    with FileSource(path) as source, ThreadPoolExecutor(workers(this_machine())) as pool:
        for file in source.contents.files:
            flat = np.frombuffer(file.buffer, dtype=np.int64, count=file.size // 8)
            step, piece = CHUNK_BYTES // 8, PIECE_BYTES // 8

            def read(start: int, flat: np.ndarray = flat, step: int = step, piece: int = piece) -> int:
                end = min(start + piece, len(flat))
                return sum(int(flat[at : min(at + step, end)].sum()) for at in range(start, end, step))

            sum(pool.map(read, range(0, len(flat), piece)))


def measured(path: Path, rounds: int) -> dict[str, float]:
    jobs: dict[str, Callable[[], object]] = {
        "raw_read": lambda: raw_read(path),
        "diagnose": lambda: diagnose_file(path),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for at in range(rounds + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if at:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(each) for name, each in times.items()}
    with FileSource(path) as source:
        size = source.contents.nbytes
    return {f"{name}_gb_per_s": size / seconds / 1e9 for name, seconds in medians.items()} | {
        "of_raw_read": medians["raw_read"] / medians["diagnose"]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--folder", type=Path, default=Path("build/scan"))
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    count = int(options.gigabytes * 1e9) // TENSOR_BYTES
    state = {f"layer{at}.weight": torch.randn(TENSOR_BYTES // 4096, 1024) for at in range(count)}
    results = {}
    for name, write in FORMATS.items():
        folder = options.folder / "one"
        folder.mkdir(parents=True)
        try:
            results[name] = measured(write(state, folder), options.rounds)
        finally:
            shutil.rmtree(folder)
    (HERE / "formats.json").write_text(json.dumps(results, indent=2) + "\n")
    rows = "\n".join(
        f"| {name} | {r['raw_read_gb_per_s']:.1f} | {r['diagnose_gb_per_s']:.1f} | {r['of_raw_read']:.2f} |"
        for name, r in results.items()
    )
    how = f"{workers(this_machine())} threads, float32, {options.gigabytes:g} GB in the page cache"
    page = f"""# Further formats, and folders

    python benchmarks/scan/formats.py

{how}, medians of {options.rounds} rounds side by side, GB/s. The raw
read sums every byte of every file of the checkpoint; opening it counts for both.

| format | raw read | `torchmend diagnose` | of the raw read |
|---|---|---|---|
{rows}
"""
    (HERE / "FORMATS.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
