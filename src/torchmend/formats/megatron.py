"""Megatron's classic layout: a folder an iteration, in it a folder a model-parallel rank, in it one torch file.

Its distributed layout is that of `torch.distributed.checkpoint`.
"""

from pathlib import Path

from torchmend.formats.contents import Contents
from torchmend.formats.folders import Part, joined_contents, read_all
from torchmend.formats.protocols import Claim, ReadFile

_RANKS = "mp_rank_*"
_NAMES = ("model_optim_rng.pt", "model_rng.pt", "distrib_optim.pt")


def claims(folder: Path) -> list[Claim]:
    """Claim a folder that holds ranks' folders with Megatron's files in them."""
    return [Claim(path=folder)] if _files(folder) else []


def _files(folder: Path) -> list[Path]:
    ranks = sorted(each for each in folder.glob(_RANKS) if each.is_dir())
    return [rank / name for rank in ranks for name in _NAMES if (rank / name).is_file()]


def read(path: Path, read_file: ReadFile) -> Contents:
    """Read every rank's files; with more than one rank their names stand below the rank's.

    Raises:
        FileError: None of the files can be read.
    """
    contents, problems = read_all(_files(path), read_file)
    single = len({file.parent for file in contents}) == 1
    parts = [Part(contents=each, prefix=() if single else (file.parent.name,)) for file, each in contents.items()]
    return joined_contents(parts, format="Megatron checkpoint", folder=path, problems=problems)
