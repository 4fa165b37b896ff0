"""Copy a file as cheaply as the system allows: sharing blocks, inside the kernel, or plainly."""

import errno
import os
import shutil
from pathlib import Path

_FICLONE = 0x40049409
"""Linux ioctl: make the target share the source's blocks (btrfs, xfs)."""

_CANNOT = {errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF}
"""What the kernel answers where copying by range is not to be had."""


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file into an existing, empty one.

    The permissions are not copied: a read-only copy could not be patched.

    Raises:
        OSError: The disk is full, or either file cannot be used.
    """
    with source.open("rb") as reader, target.open("r+b") as writer:
        if not (_clone(reader.fileno(), writer.fileno()) or _copy_range(reader.fileno(), writer.fileno())):
            reader.seek(0)
            writer.seek(0)
            writer.truncate()
            shutil.copyfileobj(reader, writer, 1 << 20)


def _clone(source: int, target: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_range(source: int, target: int) -> bool:
    """Copy inside the kernel; False where the system or the file system cannot."""
    if not hasattr(os, "copy_file_range"):
        return False
    left = os.fstat(source).st_size
    try:
        while left:
            copied = os.copy_file_range(source, target, left)
            if copied == 0:
                return False
            left -= copied
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True
