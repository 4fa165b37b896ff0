"""Fuzz for a while, as `make fuzz` does: `python tests/fuzz/run.py MINUTES [--seed N] [--stop]`.

Prints how many cases of each kind were met. A case that fails is saved, and the message names where; so is its seed.
"""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz.kinds import KINDS, Kind, warm_up
from fuzz.sandbox import Case, Sandbox

FAILURES = Path(".cache/fuzz")


def save(case: Case, kind: Kind, seed: str) -> Path:
    """Write a case to a folder of its own and return it."""
    folder = FAILURES / f"{kind.name} {seed}".replace(" ", "-").replace(",", "").replace("/", "-")
    for name, data in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def check(sandbox: Sandbox, kind: Kind, seed: str) -> tuple[dict[str, object], str]:
    """Meet the case of a seed; return the answer, and where the case is if it failed."""
    case = kind.make(random.Random(f"{kind.name} {seed}"))
    answer = sandbox.run(case)
    where = f"{save(case, kind, seed)} (kind {kind.name!r}, seed {seed!r})" if answer["problem"] else ""
    return answer, where


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float)
    parser.add_argument("--seed", default=str(random.SystemRandom().getrandbits(32)))
    parser.add_argument("--only", default="", help="kinds whose names contain this")
    arguments = parser.parse_args()
    kinds = [kind for kind in KINDS if arguments.only in kind.name]
    met, read, written, failed = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    end = time.monotonic() + 60 * arguments.minutes
    at = 0
    with Sandbox(warm_up()) as sandbox:
        while time.monotonic() < end:
            for kind in (each for each in kinds if at % each.every == 0):
                answer, where = check(sandbox, kind, f"{arguments.seed}-{at}")
                met[kind.name] += 1
                read[kind.name] += bool(answer.get("format"))
                written[kind.name] += bool(answer.get("written"))
                if where:
                    failed[kind.name] += 1
                    print(f"FAILED {where}\n{answer['problem']}", flush=True)
            at += 1
    for kind in kinds:
        counts = [f"{name} {count[kind.name]:,}" for name, count in (("read", read), ("repaired", written))]
        print(f"{met[kind.name]:9,}  {kind.name:36}  {', '.join(counts)}, failed {failed[kind.name]:,}")
    print(f"{met.total():9,}  in all, from seed {arguments.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
