"""The figures as a page."""

TOOLS = {"torchmend": "`torchmend diagnose`", "aminmax": "`torch.aminmax`", "weightlens": "weightlens 0.3.0"}


def page(results: dict) -> str:
    machine, fix, start = results["machine"], results["fix"], results["start"]
    tools = [tool for tool in TOOLS if tool in next(iter(results["finds"].values()))]
    return f"""# Scan, repair and start-up

    python benchmarks/scan/run.py

{machine["cores"]} cores, {machine["threads"]} threads, Python {machine["python"]}, numpy {machine["numpy"]},
torch {machine["torch"]} (CPU), files of {machine["gigabytes"]:g} GB, medians of rounds side by side.

## With the file in memory, GB/s

{_scan(results["scan"], tools)}

The raw read sums every byte as int64, through the same memory map, in the same chunks, with the same threads.
`--verify-crc` compares every checksum in the same pass; safetensors files carry none. `torch.aminmax` runs on every
tensor of a file that PyTorch has mapped. "Load and loop" is `torch.load` and `isfinite().all()` on every tensor.
The start of programs is left out.

## With the file on disk, seconds

{_cold(results["cold"])}

The file is put out of memory (`posix_fadvise`) before each run.

## Anonymous memory at most, MB

{_by_tool(results["memory_mb"], tools, "{:.0f}")}

## What each finds

{_by_tool(results["finds"], tools, "{}")}

"Not analysed": it refuses the file, cannot load it, or sees no tensors in it.

## Repair and start

- `torchmend fix` of the float32 file (copy, patch, check, fsync): {fix["torchmend_fix"]:.2f} s; `cp` and fsync:
  {fix["cp_and_fsync"]:.2f} s; ratio {fix["of_cp"]:.2f}.
- `torchmend diagnose` of a file of 1 kB, start to end: {start["torchmend_diagnose"]:.2f} s; `import torch`:
  {start["import_torch"]:.2f} s; ratio {start["of_import_torch"]:.2f}.
"""


def _scan(scan: dict, tools: list[str]) -> str:
    columns = {
        "raw_read": "raw read",
        "torchmend": TOOLS["torchmend"],
        "verify": "with `--verify-crc`",
        "aminmax": TOOLS["aminmax"],
        "isfinite_loop": "load and loop",
        **({"weightlens": TOOLS["weightlens"]} if "weightlens" in tools else {}),
    }
    rows = [
        [name, *(f"{row[f'{key}_gb_per_s']:.2f}" for key in columns), f"{row['of_raw_read']:.2f}"]
        for name, row in scan.items()
    ]
    return _table(["file", *columns.values(), "`diagnose` of the raw read"], rows)


def _cold(cold: dict) -> str:
    header = ["file", "`cat FILE > /dev/null`", TOOLS["torchmend"], "of `cat`", "with `--verify-crc`", "of `cat`"]
    keys = ("cat", "torchmend", "of_cat", "verify", "verify_of_cat")
    return _table(header, [[name, *(f"{row[key]:.2f}" for key in keys)] for name, row in cold.items()])


def _by_tool(figures: dict, tools: list[str], form: str) -> str:
    rows = [[name, *(form.format(row[tool]) for tool in tools)] for name, row in figures.items()]
    return _table(["file", *(TOOLS[tool] for tool in tools)], rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
