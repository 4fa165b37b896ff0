"""Capsules read back: JSON and tensors, and nothing that runs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchmend.facts.errors import UserError
from torchmend.live.forensics.calls import Autocast, Call, taken_apart
from torchmend.live.forensics.capsules import BATCH, FORMAT, RECORD, STATE, checksum, file_checksum, state_of
from torchmend.live.forensics.findings import Cause, Localisation
from torchmend.live.forensics.stored import read_tensors, stored_tensors
from torchmend.live.forensics.trees import damaged, unpacked
from torchmend.live.rng import RngState

MOST_NAMED = 3

PARTS = {
    "incident": dict,
    "calls": list,
    "models": list,
    "reference": dict,
    "settings": dict,
    "has_weights": bool,
    "checksums": dict,
}
"""What the JSON must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capsule:
    """What a capsule holds.

    Args:
        folder: Where it lies.
        record: Its JSON.
        tensors: Of the batch.
        state: Weights and buffers that it holds itself.
    """

    folder: Path
    record: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Tensor]

    @property
    def found(self) -> Localisation:
        """What was found when it was written."""
        with decoding():
            incident = self.record["incident"]
            given = {each.name: incident[each.name] for each in fields(Localisation)}
            return Localisation(**given | {"cause": Cause(incident["cause"]), "samples": tuple(incident["samples"])})

    def calls(self, models: list[nn.Module], device: torch.device) -> list[Call]:
        """Return the calls of the step, to be made again on models of one's own."""
        with decoding():
            return [self._call(each, models, device) for each in self.record["calls"]]

    def batch(self, device: torch.device) -> Any:
        """Return the batch that the loss was made of; what the model was called with, where none was told."""
        with decoding():
            if self.record["has_batch"]:
                return unpacked(self.record["batch"], self.tensors, device)
            first = self.record["calls"][0]
            arguments, keywords = (unpacked(first[key], self.tensors, device) for key in ("arguments", "keywords"))
        return keywords or (arguments[0] if len(arguments) == 1 else arguments)

    def _call(self, packed: Mapping[str, Any], models: list[nn.Module], device: torch.device) -> Call:
        arguments, keywords, gradients = (
            unpacked(packed[key], self.tensors, device) for key in ("arguments", "keywords", "out_gradients")
        )
        model = models[int(packed["model"])]
        try:
            module = model.get_submodule(packed["module"])
        except AttributeError:
            raise UserError(f"The model has no module {packed['module']}. Make the model as it was trained.") from None
        leaves, spec = taken_apart(tuple(arguments), keywords)
        return Call(
            name=packed["module"],
            module=module,
            leaves=leaves,
            spec=spec,
            with_gradients=tuple(packed["with_gradients"]),
            versions=(),
            autocast=Autocast(
                device=device.type, dtype=_dtype(packed["autocast"]["dtype"]), caches=bool(packed["autocast"]["caches"])
            ),
            rng=self._rng(packed["rng"]),
            out_gradients={int(at): each for at, each in gradients.items()},
            outputs=int(packed["outputs"]),
        )

    def _rng(self, packed: Mapping[str, Any]) -> RngState:
        version, words, gauss = packed["python"]
        kind, keys, position, has_gauss, cached = packed["numpy"]
        cpu = torch.device("cpu")
        return RngState(
            python=(version, tuple(words), gauss),
            numpy=(kind, np.asarray(keys, dtype=np.uint32), position, has_gauss, cached),
            cpu=unpacked(packed["torch"], self.tensors, cpu),
            devices=unpacked(packed["devices"], self.tensors, cpu),
        )

    def load_into(self, models: list[nn.Module], checkpoint: Path | None = None) -> None:
        """Give models the weights, the buffers and the modes that they had before the step.

        Args:
            models: Made as they were trained.
            checkpoint: Where weights come from that the capsule does not hold.

        Raises:
            UserError: They are other models, or the checkpoint has other weights than it had then.
        """
        if len(models) != len(self.record["models"]):
            raise UserError(f"The capsule is of {len(self.record['models'])} models; --model makes {len(models)}.")
        own = state_of(models)
        kept = {**self._referred(checkpoint, own), **self.state}
        missing = [name for name in own if name not in kept]
        strange = [name for name in kept if name not in own]
        other = [name for name in own if name in kept and _kind(own[name]) != _kind(kept[name])]
        for what, names in (("lacks", missing), ("has besides", strange), ("has in another shape or type", other)):
            if names:
                listed = ", ".join(names[:MOST_NAMED]) + (
                    f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                )
                raise UserError(f"The capsule does not fit the model: it {what} {listed}. {self._hint(names)}")
        with torch.no_grad():
            for name, each in own.items():
                each.copy_(kept[name])
        for model, record in zip(models, self.record["models"], strict=True):
            with decoding():
                evaluating, frozen = set(record["evaluating"]), set(record["frozen"])
            for name, module in model.named_modules():
                module.training = name not in evaluating
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(name not in frozen)

    def _hint(self, names: list[str]) -> str:
        if not self.record["has_weights"] and any(each.startswith("parameter") for each in names):
            return "It was written without weights: give --checkpoint, saved at or just before that step."
        return "Make the model as it was trained."

    def _referred(self, checkpoint: Path | None, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what lies in the checkpoint that the capsule refers to, or in the one that is given."""
        reference = self.record["reference"]
        if checkpoint is None and not reference:
            return {}
        path = checkpoint or Path(reference["path"])
        if not path.exists():
            raise UserError(f"The weights lie in {path}, which is not there. Give --checkpoint with where they are.")
        wanted = reference.get("tensors") or {}
        names = list(wanted) or [name for name in own if name not in self.state]
        stored = stored_tensors(path, [name.split(" ", 2)[2] for name in names])
        found = {name: stored[name.split(" ", 2)[2]] for name in names if name.split(" ", 2)[2] in stored}
        changed = [name for name, crc in wanted.items() if name in found and checksum(found[name]) != crc]
        if changed:
            raise UserError(
                f"{path} has other weights by now, such as {changed[0]}. Give --checkpoint with the old ones."
            )
        return found


def read_capsule(folder: Path) -> Capsule:
    """Read a capsule.

    Raises:
        FileError: It is none, or it is damaged.
        UserError: The folder does not exist, or a later torchmend wrote it.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give the folder of a capsule, such as capsules/step_000123.")
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} is no capsule: it has no {RECORD}. Give the folder of a capsule.") from None
    except (OSError, ValueError) as error:
        raise damaged(f"{RECORD} cannot be read ({error})") from error
    if not isinstance(record, dict) or not isinstance(record.get("format"), int):
        raise damaged(f"{RECORD} is of no known format")
    if record["format"] > FORMAT:
        raise UserError(f"{folder} was written by a later torchmend (format {record['format']}). Install that one.")
    for key, kind in PARTS.items():
        if not isinstance(record.get(key), kind):
            raise damaged(f"{RECORD} has no {kind.__name__} as {key!r}")
    found = Capsule(
        folder=folder, record=record, tensors=read_tensors(folder / BATCH), state=read_tensors(folder / STATE)
    )
    for name in (BATCH, STATE):
        if record["checksums"].get(name) != file_checksum(folder / name):
            raise damaged(f"{name} is another than was written")
    return found


@contextmanager
def decoding() -> Iterator[None]:
    """Turn what goes wrong meanwhile with values from the JSON into a FileError."""
    try:
        yield
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        raise damaged(f"{RECORD} holds what it cannot ({type(error).__name__}: {error})") from error


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype


def _dtype(name: str | None) -> torch.dtype | None:
    found = getattr(torch, name, None) if name else None
    return found if isinstance(found, torch.dtype) else None
