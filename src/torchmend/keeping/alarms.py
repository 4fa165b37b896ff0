"""The alarm when a state that was to be saved turns out to be corrupted."""

import logging

from torchmend.facts.codes import Severity
from torchmend.facts.errors import CorruptedStateError
from torchmend.keeping.versions import Saved, Wish

logger = logging.getLogger("torchmend.saving")

_MOST_NAMED = 3


def sound_alarm(saved: Saved, wish: Wish, *, strict: bool) -> None:
    """Log an error if what was saved is corrupted, or raise it.

    Raises:
        CorruptedStateError: It is, and `strict` is set.
    """
    if saved.healthy:
        return
    message = _message(saved, wish)
    if strict:
        raise CorruptedStateError(message, saved.path)
    logger.error(message)


def _message(saved: Saved, wish: Wish) -> str:
    errors = [each for each in saved.findings if each.severity is Severity.ERROR]
    named = ", ".join(f"{each.code.value} {each.place or each.message}".strip() for each in errors[:_MOST_NAMED])
    more = f" and {len(errors) - _MOST_NAMED:,} more" if len(errors) > _MOST_NAMED else ""
    at = f" at step {saved.step:,}" if saved.step is not None else ""
    where = wish.family.folder / wish.family.name
    return (
        f"CORRUPTED STATE{at}, not saved as {where}: {named}{more}. It is kept as {saved.path}; "
        f"what was saved before stays. To see all of it: torchmend diagnose {saved.path}"
    )
