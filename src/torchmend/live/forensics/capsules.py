"""A capsule: a folder that holds everything to run a failing batch again elsewhere, as safetensors and JSON."""

import json
import logging
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError
from torchmend.keeping.drafts import draft_folder_beside, put_in_place, sync_files, sync_folder
from torchmend.live.forensics.calls import Call
from torchmend.live.forensics.incidents import Incident
from torchmend.live.forensics.rerun import Rerun
from torchmend.live.forensics.settings import settings_now, versions_now
from torchmend.live.forensics.stored import stored_tensors, write_tensors
from torchmend.live.forensics.trees import Packer
from torchmend.live.ownership import plain
from torchmend.live.rng import RngState

logger = logging.getLogger("torchmend.guard")

FORMAT = 1
"""Of the JSON; a reader refuses a later one."""

RECORD, BATCH, STATE = "capsule.json", "batch.safetensors", "state.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsules:
    """Where capsules go, and how many.

    A capsule holds the batch and the weights as they are: it is as confidential as they are.

    Args:
        folder: Made when it is needed; each capsule is a folder in it, `step_000123`.
        most_bytes: Of one capsule. If it would be larger, weights are left out; if that is not enough, none is written.
        most: How many one run writes. Of failures with one origin there is one in 50 steps at most.
        checkpoint: A file of weights (.safetensors, or what `torch.save` wrote): those that are equal to the ones in it
            are not stored again.
    """

    folder: str | os.PathLike[str]
    most_bytes: int = 1 << 30
    most: int = 8
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Raise UserError for values without a meaning."""
        for name in ("most_bytes", "most"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more.")


class CapsuleWriter:
    """Writes the capsules of a run.

    Args:
        options: Where, and how many.

    Attributes:
        written: How many this run has, on whichever rank.
    """

    def __init__(self, options: Capsules) -> None:
        self._options = options
        self.written = 0

    @property
    def is_full(self) -> bool:
        """Whether this run has written as many as it may."""
        return self.written >= self._options.most

    def write(self, rerun: Rerun, incident: Incident) -> str:
        """Write a capsule, whole or not at all.

        Args:
            rerun: The batch; buffers are in the models as they were before the step.
            incident: What is known of it.

        Returns:
            Its folder; empty where none was written, and the log says why.
        """
        rank = f"_rank_{incident.rank}" if incident.rank is not None else ""
        folder = _free(Path(self._options.folder) / f"step_{incident.step:06d}{rank}")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with draft_folder_beside(folder) as draft:
                if not self._fill(draft, rerun, incident):
                    return ""
                sync_files(draft.iterdir())
                put_in_place(draft, folder)
            sync_folder(folder.parent)
        except (OSError, ImportError) as error:
            logger.warning("No capsule was written: %s", error)
            return ""
        return str(folder)

    def _fill(self, draft: Path, rerun: Rerun, incident: Incident) -> bool:
        packer = Packer()
        record = _record(rerun, incident, packer)
        state = state_of(rerun.models)
        reference = _reference(self._options.checkpoint, state)
        left = {name: each for name, each in state.items() if name not in reference.get("tensors", {})}
        room = self._options.most_bytes - sum(each.nbytes for each in packer.tensors.values())
        if room < 0:
            logger.warning("No capsule was written: the batch alone takes more than most_bytes.")
            return False
        has_weights = sum(each.nbytes for each in left.values()) <= room
        if not has_weights:
            logger.warning("The capsule has no weights: they take more than most_bytes. Replay it with --checkpoint.")
            left = {name: each for name, each in left.items() if name.startswith("buffer") and each.nbytes < 1 << 20}
        record |= {"has_weights": has_weights, "reference": reference, "strange": packer.strange}
        record["skipped"] = write_tensors(draft / BATCH, packer.tensors) + write_tensors(draft / STATE, left)
        record["checksums"] = {name: file_checksum(draft / name) for name in (BATCH, STATE)}
        (draft / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        (draft / "incident.txt").write_text(f"{incident}\n", encoding="utf-8")
        return True


def _free(folder: Path) -> Path:
    """Return a name that is not taken yet."""
    numbered = (folder.with_name(f"{folder.name}_{at}") for at in range(2, 1 << 16))
    return folder if not folder.exists() else next(each for each in numbered if not each.exists())


def state_of(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Return all parameters and buffers, as "parameter 0 encoder.weight": the kind, the model's number, the name."""
    found: dict[str, Tensor] = {}
    for at, model in enumerate(models):
        found |= {f"parameter {at} {plain(name)}": each.detach() for name, each in model.named_parameters()}
        found |= {f"buffer {at} {plain(name)}": each.detach() for name, each in model.named_buffers()}
    return found


def _record(rerun: Rerun, incident: Incident, packer: Packer) -> dict[str, Any]:
    models = rerun.models
    return {
        "format": FORMAT,
        "incident": {"step": incident.step, "what": incident.what, "rank": incident.rank, **incident.data()},
        "scale": rerun.scale,
        "has_batch": rerun.batch is not None,
        "batch": packer.packed(rerun.batch),
        "calls": [_packed_call(each, packer, models) for each in rerun.calls],
        "models": [
            {
                "kind": f"{type(model).__module__}.{type(model).__qualname__}",
                "evaluating": [plain(name) for name, each in model.named_modules() if not each.training],
                "frozen": [plain(name) for name, each in model.named_parameters() if not each.requires_grad],
            }
            for model in models
        ],
        "settings": settings_now(),
        "versions": versions_now(),
    }


def _packed_call(call: Call, packer: Packer, models: Sequence[nn.Module]) -> dict[str, Any]:
    model = next(at for at, each in enumerate(models) if any(call.module is inner for inner in each.modules()))
    dtype = call.autocast.dtype
    arguments, keywords = call.inputs
    return {
        "model": model,
        "module": call.name,
        "arguments": packer.packed(arguments),
        "keywords": packer.packed(keywords),
        "with_gradients": list(call.with_gradients),
        "outputs": call.outputs,
        "out_gradients": packer.packed(call.out_gradients),
        "autocast": {
            "device": call.autocast.device,
            "dtype": None if dtype is None else str(dtype).removeprefix("torch."),
            "caches": call.autocast.caches,
        },
        "rng": _packed_rng(call.rng, packer),
    }


def _packed_rng(rng: RngState, packer: Packer) -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = rng.numpy
    version, words, gauss = rng.python
    return {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": packer.packed(rng.cpu),
        "devices": packer.packed(rng.devices),
    }


def _reference(checkpoint: str | os.PathLike[str] | None, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Say which tensors are equal to those in a checkpoint, each with the CRC-32 of its bytes; empty without one."""
    if checkpoint is None or not Path(checkpoint).exists():
        return {}
    try:
        stored = stored_tensors(Path(checkpoint), [name.split(" ", 2)[2] for name in state])
    except UserError as error:
        logger.warning("The capsule refers to no checkpoint: %s", error)
        return {}
    equal = {}
    for name, each in state.items():
        other = stored.get(name.split(" ", 2)[2])
        if other is not None and other.dtype == each.dtype and torch.equal(other, each.cpu()):
            equal[name] = checksum(other)
    return {"path": str(Path(checkpoint).resolve()), "tensors": equal}


def file_checksum(path: Path) -> int:
    """Return the CRC-32 of a file's bytes."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            found = zlib.crc32(chunk, found)
    return found


def checksum(tensor: Tensor) -> int:
    """Return the CRC-32 of a tensor's bytes."""
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
