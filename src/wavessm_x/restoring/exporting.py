"""A trained network as a file that other programs run: an exported PyTorch program, or ONNX.

A file is for pictures of one size, since how often a scan doubles depends on it; larger pictures are cut into tiles.
Scans become doubling scans, whose graphs are small; all else is as in training.
"""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from wavessm_x.config import WavessmError
from wavessm_x.model import Inpainting
from wavessm_x.model.doubling_scan import selective_scan_by_doubling, ssd_scan_by_doubling
from wavessm_x.model.ssm import FrequencyAdaptiveSsm
from wavessm_x.restoring.drafts import draft

TOLERANCE = 1e-3
"""The largest difference from the network that is let pass; a quarter of one level of 255."""

REQUIRED = ("onnx", "onnxscript", "onnxruntime")
"""What ONNX takes."""

Given = tuple[Tensor, ...]
"""What a network is called with: pictures [1, 3, s, s], and if it is masked their masks [1, 1, s, s]."""

Run = Callable[[Given], Tensor]


class ExportingError(WavessmError, ValueError):
    """A network that cannot be written in this way; the message says why, and what to do instead."""


def export(model: Inpainting, path: Path, size: int) -> float:
    """Write a network into a file, and have the file checked against the network before it gets its name.

    Args:
        model: In evaluation mode, on the CPU.
        path: .pt2 for `torch.export.load`, .onnx for ONNX. Inputs are `image` [1, 3, size, size], floats in [0, 1], and
            for a masked network `mask` [1, 1, size, size], 1 where the picture is to be filled. The output is the
            restored picture, not clamped.
        size: Height and width of pictures, in pixels; a multiple of the network's, which is 8 or 16, from 16.

    Returns:
        The largest difference between what the file and the network give for random pictures.

    Raises:
        ExportingError: The suffix or the size does not do, requirements are missing, PyTorch cannot export the network,
            or the file does not give what the network gives.
    """
    if path.suffix not in _WRITERS:
        raise ExportingError(f"A network can be written to {' or '.join(_WRITERS)}; {path.name} is neither.")
    if size < 16 or size % model.multiple:
        raise ExportingError(f"size is {size}; this network takes multiples of {model.multiple}, from 16.")
    if path.suffix == ".onnx" and (missing := [name for name in REQUIRED if find_spec(name) is None]):
        raise ExportingError(
            f"ONNX takes {', '.join(missing)}, not installed here. From a clone, `pip install '.[onnx]'` brings it. "
            "Or write a .pt2."
        )
    with torch.no_grad(), _quietly(), draft(path) as file:
        program = _exported(model, _random(model, size, seed=0), path)
        run = _WRITERS[path.suffix](program, file)
        given = _random(model, size, seed=1)
        difference = float((run(given) - model(*given)).abs().max())
        if not difference <= TOLERANCE:
            raise ExportingError(
                f"What was written differs from the network by {difference:.2g}; at most {TOLERANCE} is let pass. "
                f"{path} is not written. Try the other of {' and '.join(_WRITERS)}, or another version of PyTorch."
            )
    return difference


def _exported(model: Inpainting, given: Given, path: Path) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(_exportable(model), given, strict=False)
    except (RuntimeError, TypeError, ValueError) as error:  # what torch.export's errors are derived from
        raise ExportingError(
            f"PyTorch {torch.__version__} cannot export this network, and {path} is not written: {error}"
        ) from error


def _exportable(model: Inpainting) -> Inpainting:
    """Return a copy whose scans are a few large steps."""
    copied = deepcopy(model)
    for module in copied.modules():
        if isinstance(module, FrequencyAdaptiveSsm):
            exact = model.config.ssm == "exact"
            module.scan = selective_scan_by_doubling if exact else ssd_scan_by_doubling
    return copied


def _write_program(program: torch.export.ExportedProgram, file: Path) -> Run:
    torch.export.save(program, file)
    loaded = torch.export.load(file).module()
    return lambda given: loaded(*given)


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> Run:
    import onnxruntime  # type: ignore[import-untyped]

    written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    written.save(file, external_data=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(given: Given) -> Tensor:
        (output,) = session.run(None, {name: each.numpy() for name, each in zip(names, given, strict=True)})
        return torch.from_numpy(output)

    return run


_WRITERS = {".pt2": _write_program, ".onnx": _write_onnx}
"""Each writes a program, reads it again, and returns what runs it."""


def _random(model: Inpainting, size: int, seed: int) -> Given:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, size, size, generator=generator)
    mask = (torch.rand(1, 1, size, size, generator=generator) < 0.3).float()
    return (image, mask) if model.config.masked else (image,)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep PyTorch's exporters from warning of their own insides, and of libraries that are not needed here."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
