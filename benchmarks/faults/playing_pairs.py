"""Cases of two processes run as such, and scored."""

import datetime as dt
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import distributed, multiprocessing, nn

from benchmarks.faults.ours import Torchmend
from benchmarks.faults.pairs import BAD, GUILTY, PAIRS, RANKS, Pair
from benchmarks.faults.protections import Nothing
from benchmarks.faults.scoring import RECOVERED
from benchmarks.faults.training import digest_of, is_sound, run

PROTECTIONS: tuple[type[Nothing], ...] = (Nothing, Torchmend)
"""With and without; in the order of the page's columns."""

TIMEOUT = dt.timedelta(seconds=60)
"""How long a process waits for the other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairScore:
    """One pair under one protection with one seed.

    Args:
        case: Its name.
        protection: The same.
        seed: Of data and weights.
        identical: Whether both processes ended with the same weights, to the last bit.
        sound: Whether all parameters and buffers of both are finite, and no variance is below zero.
        relative: The lower metric of the two, relative to the lowest of the clean run without protection.
        acts: What was done on either, each once.
        named: The first process that was named as the one at fault; None if none was.
        twin_equal: Whether the clean run ends the same to the last bit as without the protection.
    """

    case: str
    protection: str
    seed: int
    identical: bool
    sound: bool
    relative: float
    acts: tuple[str, ...]
    named: int | None
    twin_equal: bool

    @property
    def is_healthy(self) -> bool:
        """Whether both ended alike, sound, and as good as the clean run."""
        return self.identical and self.sound and self.relative >= RECOVERED

    @property
    def names_rank(self) -> bool:
        """Whether the process at fault was named."""
        return self.named == GUILTY

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "acts": list(self.acts), "relative": round(self.relative, 4)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Return what `as_json` gave these fields of."""
        return cls(**{**fields, "acts": tuple(fields["acts"])})


Ended = dict[str, Any]
"""How one process ended: its metric, whether it is sound, digests, acts, and the processes that it named."""


def play_pairs(seeds: Sequence[int], names: Sequence[str] = ()) -> list[PairScore]:
    """Run pairs in two processes by gloo, and score them.

    Args:
        seeds: Of data and weights.
        names: Of pairs; empty for all.
    """
    chosen = [each.name for each in PAIRS if each.name in names or not names]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(_work, args=(folder, chosen, list(seeds)), nprocs=RANKS)
        ranks = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(RANKS)]
    scores = []
    for name in chosen:
        for seed in seeds:
            runs = {key: [each[_key(name, seed, *key)] for each in ranks] for key in _runs()}
            plain = runs[Nothing.name, False]
            for protection in PROTECTIONS:
                twin, faulty = (runs[protection.name, is_faulty] for is_faulty in (False, True))
                scores.append(pair_score(name, protection.name, seed, plain, twin, faulty))
    return scores


def pair_score(
    name: str, protection: str, seed: int, plain: Sequence[Ended], twin: Sequence[Ended], faulty: Sequence[Ended]
) -> PairScore:
    """Compare the ends of both processes with one another, and with those of the clean run.

    Args:
        name: Of the pair.
        protection: The same.
        seed: Of the run.
        plain: The clean run without protection, one entry a process.
        twin: The clean run with it.
        faulty: The faulty run with it.
    """
    named = [rank for each in faulty for rank in each["ranks"]]
    return PairScore(
        case=name,
        protection=protection,
        seed=seed,
        identical=len({each["weights"] for each in faulty}) == 1,
        sound=all(each["sound"] for each in faulty),
        relative=min(each["metric"] for each in faulty) / min(each["metric"] for each in plain),
        acts=tuple(dict.fromkeys(act for each in faulty for act in each["acts"])),
        named=named[0] if named else None,
        twin_equal=[each["digest"] for each in twin] == [each["digest"] for each in plain],
    )


def _runs() -> list[tuple[str, bool]]:
    return [(each.name, faulty) for each in PROTECTIONS for faulty in (False, True)]


def _key(name: str, seed: int, protection: str, faulty: bool) -> str:
    return f"{name} {seed} {protection} {faulty}"


def _work(rank: int, folder: str, names: Sequence[str], seeds: Sequence[int]) -> None:
    from benchmarks.faults.run import quieten

    quieten()
    distributed.init_process_group(
        "gloo", rank=rank, world_size=RANKS, store=distributed.FileStore(f"{folder}/store", RANKS), timeout=TIMEOUT
    )
    ended = {
        _key(pair.name, seed, protection.name, faulty): _ended(pair, seed, rank, protection, faulty=faulty)
        for pair in PAIRS
        if pair.name in names
        for seed in seeds
        for protection in PROTECTIONS
        for faulty in (False, True)
    }
    (Path(folder) / f"{rank}.json").write_text(json.dumps(ended))
    distributed.destroy_process_group()


def _ended(pair: Pair, seed: int, rank: int, protection: type[Nothing], *, faulty: bool) -> Ended:
    torch.manual_seed(seed)
    training = pair.make(seed, rank, faulty and rank == GUILTY, _wrapped)
    protecting = protection(training)
    outcome = run(training, protecting)
    told = [each for each in outcome.events if each.step >= BAD[0] and each.act.interferes]
    return {
        "metric": outcome.metric,
        "sound": is_sound(training.model),
        "digest": outcome.digest,
        "weights": digest_of(training.model.parameters()),
        "acts": [each.act.value for each in told],
        "ranks": getattr(protecting, "ranks", []),
    }


def _wrapped(model: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
