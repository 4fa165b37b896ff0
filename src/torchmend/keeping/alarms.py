"""The alarm when a state that was to be saved turns out to be corrupted, and a warning of metrics that never win."""

import logging
import math
from pathlib import Path

from torchmend.facts.codes import Severity
from torchmend.facts.errors import CorruptedStateError
from torchmend.keeping.versions import Saved, Wish

logger = logging.getLogger("torchmend.saving")

_MOST_NAMED = 3

_warned_of: set[Path] = set()
"""What this process was told of already: a metric that is NaN once often is so at every save."""


def sound_alarm(saved: Saved, wish: Wish, *, strict: bool) -> None:
    """Log an error if what was saved is corrupted, or raise it; warn, once for each name, of a metric that never wins.

    Raises:
        CorruptedStateError: It is corrupted, and `strict` is set.
    """
    if saved.healthy:
        _warn_of_metric(wish)
        return
    message = _message(saved, wish)
    if strict:
        raise CorruptedStateError(message, saved.path)
    logger.error(message)


def _warn_of_metric(wish: Wish) -> None:
    where = (wish.family.folder / wish.family.name).absolute()
    if wish.metric is None or math.isfinite(wish.metric) or where in _warned_of:
        return
    _warned_of.add(where)
    logger.warning(
        f"The metric of {where} is {wish.metric}, which never wins: the state was saved, but not as "
        f"{wish.family.best.name}. Look at what computes the metric. This is said once for each name."
    )


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
