"""The errors that torchmend raises. One base class; a user's mistake, a damaged file and a bug differ."""

from pathlib import Path

from torchmend.facts.codes import Code


class TorchmendError(Exception):
    """Base class of every error that torchmend raises on purpose."""


class UserError(TorchmendError):
    """The request cannot be carried out as it was made; the message says what to change."""


class TrainingStoppedError(TorchmendError):
    """A guarded run was stopped since going on would not help; the message says what was seen and what to change."""


class FileError(TorchmendError):
    """A file is missing, unreadable, cut off or malformed.

    Args:
        code: The TM9xx code under which a report lists it.
        message: What is wrong, with what was found and what was expected.
        remedy: What to do next.
    """

    def __init__(self, code: Code, message: str, remedy: str) -> None:
        super().__init__(f"{message} {remedy}")
        self.code = code
        self.message = message
        self.remedy = remedy


class SourceChangedError(TorchmendError):
    """A file changed while it was being read, so nothing that was read of it can be trusted."""


class RepairError(TorchmendError):
    """A repair was carried out on a copy, the copy did not pass its check, and the copy was removed."""


class CorruptedStateError(TorchmendError):
    """A state that was to be saved is corrupted: it went to quarantine, and what was saved before stays.

    Args:
        message: What is wrong with it, and what to do.
        quarantined: Where it is.
    """

    def __init__(self, message: str, quarantined: Path) -> None:
        super().__init__(message)
        self.quarantined = quarantined
