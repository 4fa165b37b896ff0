"""Recover the tensors that a cut or damaged file still holds as a whole."""

import zlib
from dataclasses import dataclass
from pathlib import Path

from torchmend.doctor.file_source import ScanProgress
from torchmend.doctor.packing import LeftOut, about, left_behind, pack
from torchmend.doctor.writing import outputs
from torchmend.doctor.writing.outputs import SHARD_BYTES, Layout, Output
from torchmend.doctor.writing.parcels import releasing
from torchmend.facts.errors import FileError, UserError
from torchmend.facts.tensors import Scalar
from torchmend.formats.checksums import checked_stretches, wrong_records
from torchmend.formats.salvage.remains import INDEX, Remains, read_remains
from torchmend.measure.scan import scan

_SUFFIX = "_SALVAGED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvageOptions:
    """How to recover.

    Args:
        output: Where the tensors go; `<name>_SALVAGED<suffix>` beside the source when None.
        to: The format; told by the output's name when None.
        keep_suspect: Recover tensors too whose bytes do not have the checksum that is stored for them.
        force: Replace existing files.
    """

    output: Path | None = None
    to: Layout | None = None
    keep_suspect: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SalvageResult:
    """What could be recovered.

    Args:
        source: The file that was read.
        format: What it is, in words.
        problem: What is wrong with it; empty if it is whole.
        layout: How the tensors were written.
        output: The file to open; None when nothing was recovered.
        recovered: The paths of the tensors that were written: container and name joined by a dot.
        nbytes: How many bytes their elements take.
        lost: The tensors that were not.
        suspect: Paths of tensors that were written although their bytes do not have the checksum that is stored.
        scalars: Numbers and short texts beside the tensors, which are not written.
        optimizers: Containers of optimizers, whose parameter groups are not written.
    """

    source: Path
    format: str
    problem: str
    layout: Layout
    output: Path | None = None
    recovered: tuple[str, ...] = ()
    nbytes: int = 0
    lost: tuple[LeftOut, ...] = ()
    suspect: tuple[str, ...] = ()
    scalars: tuple[Scalar, ...] = ()
    optimizers: tuple[str, ...] = ()


def salvage_file(
    path: str | Path, options: SalvageOptions | None = None, progress: ScanProgress | None = None
) -> SalvageResult:
    """Write the tensors that a cut or damaged file still holds as a whole into a new file.

    A tensor is recovered with all its elements or not at all. The result keeps names and, as a torch file,
    containers. The source is only read, and nothing in it is executed.

    Args:
        path: A torch zip or safetensors file, with or without its end or its directory.
        options: How.
        progress: Told how much has been written.

    Raises:
        FileError: The source cannot be read, or nothing in it can be named.
        UserError: The output exists or its name does not tell its format, or names collide.
        SourceChangedError: The source was written to meanwhile.
        OSError: The disk is full or the folder cannot be written.
    """
    path, options = Path(path), options or SalvageOptions()
    output = Path(options.output) if options.output is not None else salvaged_name(path)
    try:
        remains = read_remains(path)
    except FileError as error:
        raise about(path, error) from None
    try:
        layout = options.to or outputs.layout_for(output)
        target = Output(path=output, layout=layout, sources=(path,), most=SHARD_BYTES, force=options.force)
        target.check()
        return _salvage(path, remains, target, options, progress)
    finally:
        remains.contents.close()


def salvaged_name(path: Path) -> Path:
    """Return `<name>_SALVAGED<suffix>` beside a path."""
    return path.with_name(f"{path.stem}{_SUFFIX}{path.suffix}")


def _salvage(
    path: Path, remains: Remains, target: Output, options: SalvageOptions, progress: ScanProgress | None
) -> SalvageResult:
    contents = remains.contents
    if not contents.tensors:
        raise UserError(f"{path} holds no tensors, so there is nothing to recover.")
    suspect = _suspect(remains)
    parcels, lost = pack(contents, target.layout, lost={} if options.keep_suspect else suspect)
    total = sum(parcel.nbytes for parcel in parcels)
    files: tuple[Path, ...] = ()
    if parcels:
        files = outputs.write(parcels, target, lambda done: progress(done, total) if progress else None)
    doubted = {id(contents.tensors[place]) for place in suspect}
    return SalvageResult(
        source=path,
        format=contents.format,
        problem=remains.problem,
        layout=target.layout,
        output=files[-1] if files else None,
        recovered=tuple(parcel.path for parcel in parcels),
        nbytes=total,
        lost=tuple(lost),
        suspect=tuple(parcel.path for parcel in parcels if id(parcel.tensor) in doubted),
        scalars=left_behind(contents),
        optimizers=tuple(contents.optimizers),
    )


def _suspect(remains: Remains) -> dict[int, str]:
    """Compare checksums, and return what speaks against tensors, by their place in the contents."""
    contents = remains.contents
    if remains.index_is_suspect:
        reason = f"the checksum of {INDEX}, which says what it is and where, is wrong"
        return dict.fromkeys(range(len(contents.tensors)), reason)
    held = releasing(contents.files, lambda _: None)
    sums = scan([], checked_stretches(contents), progress=held).sums
    wrong = {record.extent: record.name for record, _ in wrong_records(contents, sums)}
    suspect = {}
    for place, tensor in enumerate(contents.tensors):
        record = wrong.get(tensor.extent) if tensor.extent else None
        if record is None and tensor.inline is not None and tensor.packed in remains.checksums:
            record = tensor.packed if zlib.crc32(tensor.inline) != remains.checksums[tensor.packed] else None
        if record is not None:
            suspect[place] = f"the checksum of its record {record} is wrong"
    return suspect
