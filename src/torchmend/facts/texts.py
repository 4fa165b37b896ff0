"""Texts out of files: whoever wrote the file chose them."""

LONGEST = 120


def printable(text: str, longest: int = LONGEST) -> str:
    """Write a text so that nothing obeys it: no line feeds, escapes, marks of direction, lone surrogates."""
    cut = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return cut if cut.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in cut)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
