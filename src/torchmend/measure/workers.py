"""How many threads to work with: one for each core that nobody else is busy on."""

import math
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What a process finds of its machine at one moment.

    Args:
        cores: How many cores the process may use, at least 1.
        online: How many the machine has in all.
        busy: How many of them others keep busy; 0.0 where the system does not tell.
        quota: How much processor time a control group grants, in cores; infinity without a limit.
    """

    cores: int
    online: int
    busy: float = 0.0
    quota: float = math.inf


def workers(machine: Machine) -> int:
    """Return how many threads to use: the cores that are free, but half of those allowed at the least.

    A thread on a busy core is stopped while it holds the interpreter lock, and all others wait for it: on two cores
    of which one was taken, one thread was faster than two. Where every core is taken, half of them is a fair share.
    """
    allowed = max(1, min(machine.cores, math.ceil(machine.quota) if machine.quota < math.inf else machine.cores))
    free = machine.online - round(machine.busy)
    return min(allowed, max(free, (allowed + 1) // 2))


def this_machine() -> Machine:
    """Look at the machine as it is now."""
    return Machine(cores=available_cores(), online=os.cpu_count() or 1, busy=_busy(), quota=_quota())


def available_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity call
        return os.cpu_count() or 1


def _busy(proc: Path = Path("/proc")) -> float:
    """Return how many cores others keep busy.

    The load average alone would count the work that this process, or the one before it, did a moment ago; what can
    run right now is a matter of chance. A core counts as busy if both say so.
    """
    try:
        averaged = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows has none
        return 0.0
    try:
        running = int((proc / "loadavg").read_text().split()[3].split("/")[0])
    except (OSError, IndexError, ValueError):
        return averaged
    return min(averaged, max(running - 1, 0))


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float:
    """Return the processor time that the process's control group and those above it grant, in cores."""
    try:
        group = next((line[3:] for line in own.read_text().splitlines() if line.startswith("0::")), "/")
    except OSError:
        return math.inf
    folder = root / group.strip("/")
    folders = [each for each in (folder, *folder.parents) if each.is_relative_to(root)]
    limits = [_limit(_words(each / "cpu.max")) for each in folders]
    first = root / "cpu"  # version 1 of control groups; a container sees its own group there
    limits.append(_limit([*_words(first / "cpu.cfs_quota_us"), *_words(first / "cpu.cfs_period_us")]))
    return min(limits)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _limit(words: list[str]) -> float:
    """Turn a quota and a period, both in microseconds, into cores; "max" and -1 are no limit."""
    try:
        quota, period = (int(word) for word in words)
    except ValueError:
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
