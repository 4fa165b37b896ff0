"""Words, links and tables in Markdown: pure."""

import re
from collections.abc import Sequence

REPORT = re.compile(r"(?:([\w.-]+/[\w.-]+)|(?<!\w))#(\d+)")
"""`owner/repository#number`, or `#number` of the repository named before."""


def anchor(name: str) -> str:
    """Return a link to the heading of a case."""
    return f"[{name}](#{name})"


def quoted(words: str) -> str:
    """Return words as code, which Markdown leaves as they are."""
    return f"`{' '.join(words.split()).replace('`', chr(39))}`"


def linked(reported: str) -> str:
    """Make links to GitHub of `owner/repository#number` and of the `#number` after it; leave all else."""
    repository = ""

    def link(found: re.Match[str]) -> str:
        nonlocal repository
        repository = found[1] or repository
        return f"[{found[0]}](https://github.com/{repository}/issues/{found[2]})" if repository else found[0]

    return REPORT.sub(link, reported)


def count(number: int, noun: str) -> str:
    """Return "1 seed", or "3 seeds"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table, a line a row."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(each.replace('|', chr(92) + '|') for each in cells)} |" for cells in lines)
