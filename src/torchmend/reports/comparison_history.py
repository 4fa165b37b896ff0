"""The history of a run as data, as text and as JSON: a line per checkpoint, and where it went wrong."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torchmend.facts.findings import Finding
from torchmend.facts.tensors import Scalar
from torchmend.reports.comparison import Comparison
from torchmend.reports.comparison_json import comparison_data
from torchmend.reports.comparison_text import comparison_text
from torchmend.reports.machine import Json, number, scalar_data
from torchmend.reports.wording import Paint, counted, plain

MOST_JUMPS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One checkpoint of a run.

    Args:
        path: The file.
        step: Its place in training, if something tells it.
        checked: Whether all of it could be looked at.
        damaged: The places that are damaged.
        newly: The first error of each place that no earlier checkpoint had damaged, worst first.
        problem: Why something could not be looked at; empty when everything could.
        metrics: Best and validation figures among its metadata.
        holds: Equal for files with the same names of tensors.
    """

    path: Path
    step: int | None
    checked: bool
    damaged: frozenset[str] = frozenset()
    newly: tuple[Finding, ...] = ()
    problem: str = ""
    metrics: tuple[Scalar, ...] = ()
    holds: int = 0

    @property
    def healthy(self) -> bool:
        """Whether everything was checked and nothing is damaged."""
        return self.checked and not self.damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """A layer whose running variance grew a lot between two checkpoints.

    Args:
        before: The earlier file.
        after: The later one.
        layer: The layer's prefix, without wrappers.
        factor: How many times as large the variance became, in the channel where that is most.
        channel: That channel.
        channels: In how many channels it grew so.
    """

    before: Path
    after: Path
    layer: str
    factor: float
    channel: int
    channels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The checkpoints of a folder in order of training.

    Args:
        folder: Where they are.
        ordered_by: What the order was told from.
        entries: One a file, in order.
        jumps: Running variances that grew a lot in one interval, most first.
        left_out: Repaired copies, which are no part of the run.
        comparison: Of the last healthy checkpoint with the first damaged one.
    """

    folder: Path
    ordered_by: str
    entries: tuple[Entry, ...]
    jumps: tuple[Jump, ...] = ()
    left_out: int = 0
    comparison: Comparison | None = None

    @property
    def checked(self) -> bool:
        """Whether every file could be looked at."""
        return all(entry.checked for entry in self.entries)

    @property
    def first_damaged(self) -> Entry | None:
        """The first checkpoint in which something is damaged."""
        return next((entry for entry in self.entries if entry.damaged), None)

    @property
    def last_healthy(self) -> Entry | None:
        """The last healthy checkpoint before the first damage: one with the same tensors if there is any."""
        bad = self.first_damaged
        before = self.entries[: self.entries.index(bad)] if bad else self.entries
        healthy = [entry for entry in before if entry.healthy]
        alike = [entry for entry in healthy if bad is None or entry.holds == bad.holds]
        return (alike or healthy)[-1] if healthy else None

    @property
    def later(self) -> tuple[Entry, ...]:
        """The checkpoints after the first damaged one."""
        bad = self.first_damaged
        return self.entries[self.entries.index(bad) + 1 :] if bad else ()


# As text


def history_text(history: History, paint: Paint = plain, top: int = 10) -> str:
    """Render a history, without a final newline."""
    lines = [f"{paint(str(history.folder), 'bold')}: {_count(history)}, in the order of {history.ordered_by}", ""]
    lines += _table(history, paint)
    lines += ["", *(f"  {line}" for line in _answer(history, paint))]
    if history.jumps:
        lines += ["", *_jumps(history, paint)]
    if history.comparison is not None:
        lines += ["", paint("The last healthy checkpoint (A) beside the first damaged one (B)", "bold"), ""]
        lines.append(comparison_text(history.comparison, paint, top))
    return "\n".join(lines)


def _count(history: History) -> str:
    copies = f" ({counted(history.left_out, 'repaired copy', 'repaired copies')} left out)" if history.left_out else ""
    return counted(len(history.entries), "checkpoint") + copies


def _table(history: History, paint: Paint) -> Iterator[str]:
    names = {entry.path: _name(history, entry) for entry in history.entries}
    steps = {entry.path: f"{entry.step:,}" if entry.step is not None else "?" for entry in history.entries}
    wide, step_width = max(map(len, names.values())), max(map(len, steps.values()))
    for entry in history.entries:
        word, style = _verdict(entry)
        metrics = "".join(f"   {each.leaf} {each.value:.5g}" for each in entry.metrics)
        step = f"{steps[entry.path]:>{step_width}}"
        yield f"  {step}  {names[entry.path]:<{wide}}  {paint(f'{word:<9}', style)}{metrics}{_remark(entry)}".rstrip()


def _name(history: History, entry: Entry) -> str:
    path = entry.path
    return str(path.relative_to(history.folder) if path.is_relative_to(history.folder) else path)


def _verdict(entry: Entry) -> tuple[str, str]:
    if entry.damaged:
        return "DAMAGED", "red"
    return ("healthy", "green") if entry.checked else ("UNCHECKED", "yellow")


def _remark(entry: Entry) -> str:
    if entry.problem:
        return f"   {entry.problem}"
    if entry.newly:
        more = f" and {len(entry.newly) - 1:,} more" if len(entry.newly) > 1 else ""
        return f"   {entry.newly[0].code.value} {entry.newly[0].place}{more}"
    return f"   {counted(len(entry.damaged), 'place')}, as before" if entry.damaged else ""


def _answer(history: History, paint: Paint) -> Iterator[str]:
    bad, good = history.first_damaged, history.last_healthy
    if bad is None:
        if good is None:
            yield paint("No checkpoint could be checked.", "red")
        elif history.checked:
            yield paint("Every checkpoint is healthy.", "green")
        else:
            yield f"Every checkpoint that could be checked is healthy; the last of them is {_name(history, good)}."
        return
    what = broken(bad.newly)
    if good is None:
        yield paint(f"Damaged from the first checkpoint on: {_name(history, bad)}: {what}.", "red")
    else:
        between = f"between {_name(history, good)} (healthy) and {_name(history, bad)}"
        yield paint(f"It went wrong {between}: {what}.", "red")
        yield f"The last healthy one before that is {paint(_name(history, good), 'bold')}."
    for entry in history.later:
        if entry.newly:
            yield f"By {_name(history, entry)} it had spread: {broken(entry.newly)}."
    again = [entry for entry in history.later if entry.healthy]
    if again:
        yield f"Healthy again: {', '.join(_name(history, entry) for entry in again[:3])}."


def broken(findings: tuple[Finding, ...]) -> str:
    """Say in a few words what is damaged (`2 running statistics of stem.1`)."""
    refs = [finding.ref for finding in findings if finding.ref is not None]
    groups = {
        "running statistic": [ref for ref in refs if ref.role.is_statistic],
        "weight or bias": [ref for ref in refs if ref.role.is_learned],
        "optimizer tensor": [ref for ref in refs if ref.role.is_optimizer],
    }
    groups["other tensor"] = [ref for ref in refs if not any(ref in group for group in groups.values())]
    parts = []
    for noun, members in groups.items():
        if members:
            layers = list(
                dict.fromkeys((ref.role.is_optimizer and ref.param) or ref.prefix or ref.name for ref in members)
            )
            more = f" and {counted(len(layers) - 1, 'more layer')}" if len(layers) > 1 else ""
            plural = "weights and biases" if noun == "weight or bias" else ""
            parts.append(f"{counted(len(members), noun, plural)} of {layers[0]}{more}")
    if scalars := [finding.place for finding in findings if finding.scalar is not None]:
        parts.append(f"{counted(len(scalars), 'number')} ({', '.join(scalars[:3])})")
    return "; ".join(parts)


def _jumps(history: History, paint: Paint) -> Iterator[str]:
    yield f"  {paint('JUMPS', 'yellow')}   running variances that grew fourfold or more from one checkpoint to the next"
    for jump in history.jumps[:MOST_JUMPS]:
        where = f"{jump.before.name} -> {jump.after.name}"
        channels = f"in {counted(jump.channels, 'channel')}, most in channel {jump.channel}"
        yield f"    {where}   {jump.layer}   x{jump.factor:.3g}   {channels}"
    if len(history.jumps) > MOST_JUMPS:
        yield f"    and {len(history.jumps) - MOST_JUMPS:,} more; --format json lists all"


# As JSON


def history_data(history: History) -> Json:
    """Turn a history into plain data."""
    good, bad = history.last_healthy, history.first_damaged
    return {
        "folder": str(history.folder),
        "ordered_by": history.ordered_by,
        "checked": history.checked,
        "repaired_copies_left_out": history.left_out,
        "checkpoints": [_entry_data(entry) for entry in history.entries],
        "last_healthy": str(good.path) if good else None,
        "first_damaged": str(bad.path) if bad else None,
        "answer": list(_answer(history, plain)),
        "jumps": [_jump_data(jump) for jump in history.jumps],
        "comparison": comparison_data(history.comparison) if history.comparison else None,
    }


def _entry_data(entry: Entry) -> Json:
    return {
        "source": str(entry.path),
        "step": entry.step,
        "healthy": entry.healthy,
        "checked": entry.checked,
        "problem": entry.problem,
        "damaged": sorted(entry.damaged),
        "newly_damaged": [{"code": each.code.value, "place": each.place} for each in entry.newly],
        "metrics": [scalar_data(each) for each in entry.metrics],
    }


def _jump_data(jump: Jump) -> Json:
    return {
        "before": str(jump.before),
        "after": str(jump.after),
        "layer": jump.layer,
        "factor": number(jump.factor),
        "channel": jump.channel,
        "channels": jump.channels,
    }
