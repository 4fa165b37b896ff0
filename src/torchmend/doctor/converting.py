"""Write a checkpoint's tensors in another format. Nothing that the source contains is ever executed."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from torchmend.doctor.file_source import ScanProgress
from torchmend.doctor.packing import LeftOut, about, left_behind, pack
from torchmend.doctor.writing import outputs
from torchmend.doctor.writing.outputs import SHARD_BYTES, Layout, Output
from torchmend.doctor.writing.parcels import sharers
from torchmend.facts.codes import Code
from torchmend.facts.errors import FileError, UserError
from torchmend.facts.tensors import Scalar
from torchmend.formats.contents import Contents
from torchmend.formats.registry import read_contents

_SUBCLASSES = "torch._tensor._rebuild_from_type_v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to convert.

    Args:
        to: The format; told by the output's name when None.
        container: Only the tensors in this container (`model_state_dict`), which becomes the root.
        max_shard_bytes: The most bytes of tensors in one file of a sharded checkpoint.
        allow_partial: Write the rest if some tensors cannot be written.
        force: Replace existing files.
    """

    to: Layout | None = None
    container: str | None = None
    max_shard_bytes: int = SHARD_BYTES
    allow_partial: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertResult:
    """What a conversion came to.

    Args:
        source: The file that was read.
        format: What it is, in words.
        layout: What was, or would have been, written.
        output: The file to open, an index for a sharded checkpoint; None when nothing was written.
        files: Every file that was written.
        tensors: How many tensors were written, or would have been.
        nbytes: How many bytes their elements take.
        refused: The tensors that cannot be written.
        copies: Names that shared elements with another one, which now have their own: name -> the other name.
        scalars: Numbers and short texts that were left behind.
        subclasses: Whether the source held tensors of subclasses, which became plain ones (of a distributed
            tensor, the part in this file).
    """

    source: Path
    format: str
    layout: Layout
    output: Path | None = None
    files: tuple[Path, ...] = ()
    tensors: int
    nbytes: int
    refused: tuple[LeftOut, ...] = ()
    copies: dict[str, str] = field(default_factory=dict)
    scalars: tuple[Scalar, ...] = ()
    subclasses: bool = False

    @property
    def succeeded(self) -> bool:
        """Whether every tensor that was asked for was written."""
        return self.output is not None and not self.refused


def convert_file(
    path: str | Path,
    output: str | Path,
    options: ConvertOptions | None = None,
    progress: ScanProgress | None = None,
) -> ConvertResult:
    """Write a checkpoint's tensors as a torch zip, safetensors, or sharded safetensors.

    Elements are carried over bit for bit, damaged ones too; a few pieces of a tensor are in memory at a time.
    The result appears under its name complete and read back, or not at all. If a tensor cannot be written,
    nothing is, unless `allow_partial`. Numbers and texts are left behind.

    Args:
        path: The checkpoint; only read.
        output: The new file; for shards, a folder or an index (`NAME.index.json`) in one.
        options: How.
        progress: Told how much has been written.

    Raises:
        FileError: The source cannot be read.
        UserError: The output exists or its name does not tell its format, names collide, or no container has
            the name.
        SourceChangedError: The source was written to meanwhile.
        OSError: The disk is full or the folder cannot be written.
    """
    path, output, options = Path(path), Path(output), options or ConvertOptions()
    layout = options.to or outputs.layout_for(output)
    try:
        contents = read_contents(path)
    except FileError as error:
        salvage = f"What is whole in it can be recovered: torchmend salvage {shlex.quote(str(path))}."
        raise about(path, error, salvage if error.code is Code.TRUNCATED else "") from None
    try:
        target = Output(
            path=output,
            layout=layout,
            sources=(*(file.path for file in contents.files), path),
            most=options.max_shard_bytes,
            force=options.force,
        )
        target.check()
        return _convert(path, contents, target, options, progress)
    finally:
        contents.close()


def _convert(
    path: Path, contents: Contents, target: Output, options: ConvertOptions, progress: ScanProgress | None
) -> ConvertResult:
    parcels, refused = pack(contents, target.layout, container=options.container)
    if not parcels and not refused:
        raise UserError(f"{path} holds no tensors, so there is nothing to convert.")
    total = sum(parcel.nbytes for parcel in parcels)
    files: tuple[Path, ...] = ()
    if parcels and (options.allow_partial or not refused):
        files = outputs.write(parcels, target, lambda done: progress(done, total) if progress else None)
    return ConvertResult(
        source=path,
        format=contents.format,
        layout=target.layout,
        output=files[-1] if files else None,
        files=files,
        tensors=len(parcels),
        nbytes=total,
        refused=tuple(refused),
        copies={} if target.layout is Layout.TORCH else sharers(parcels),
        scalars=left_behind(contents),
        subclasses=any(wanted.dotted == _SUBCLASSES for wanted in contents.imports),
    )
