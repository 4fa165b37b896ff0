"""What each code means, in the words that reports and `torchmend explain` use.

`codes.md` beside this file is the one place where they are written.
"""

import re
from dataclasses import dataclass
from importlib import resources
from typing import Final

from torchmend.facts.codes import Code


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeText:
    """The section of one code.

    Args:
        title: A few words.
        consequence: One sentence: what it does to the user.
        remedy: One sentence: what to do.
        body: The whole section in Markdown, heading included.
    """

    title: str
    consequence: str
    remedy: str
    body: str


_SECTION = re.compile(r"^## (TM\d+): (.+?)$(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_FIELD = r"^\*\*{}\*\* (.+?)(?:\n\n|\Z)"


def _field(name: str, section: str) -> str:
    match = re.search(_FIELD.format(name), section, re.MULTILINE | re.DOTALL)
    assert match, f"a section without {name}"
    return " ".join(match[1].split())


def _load() -> dict[Code, CodeText]:
    page = resources.files(__package__).joinpath("codes.md").read_text(encoding="utf-8")
    return {
        Code(code): CodeText(
            title=title,
            consequence=_field("In short.", section),
            remedy=_field("To do.", section),
            body=f"## {code}: {title}{section}".rstrip() + "\n",
        )
        for code, title, section in _SECTION.findall(page)
    }


TEXTS: Final = _load()
