"""`torchmend explain`."""

from typing import Annotated

import typer

from torchmend.facts.codes import Code
from torchmend.facts.errors import UserError
from torchmend.rules.texts import TEXTS


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="A finding code, such as TM101; a prefix lists several.")],
) -> None:
    """Say what a finding code means and how to fix it."""
    wanted = code.upper()
    found = [each for each in Code if each.value.startswith(wanted)] if wanted.startswith("TM") else []
    if not found:
        raise UserError(f"There is no code {code!r}. The codes are {', '.join(each.value for each in Code)}.")
    if len(found) == 1:
        typer.echo(TEXTS[found[0]].body, nl=False)
        return
    for each in found:
        typer.echo(f"{each.value}  {TEXTS[each].title}")
