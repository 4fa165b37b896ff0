"""The quick reference names what there is: flags and their defaults, commands, log lines, errors, exit codes."""

import ast
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import typer

from torchmend import Cause, GuardOptions, Incident, Localisation, Remedy
from torchmend.cli import classic
from torchmend.cli.common import Exit
from torchmend.cli.main import app as torchmend_app
from torchmend.facts.codes import Code
from torchmend.live.forensics.incidents import Kind
from wavessm_x.cli.main import app as wavessm_app

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "quick-reference.md").read_text(encoding="utf-8")
WAVESSM = typer.main.get_command(wavessm_app).commands
DOCTOR = typer.main.get_command(torchmend_app).commands
LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```\w+\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
SHOWN = re.compile(r"(?:torchmend|wavessm|python \w+\.py) .*")
HOLE = "\0"
"""Stands for what is filled in when a line is logged."""
FILLED_IN = re.compile(r"\b(?:N|X|PATH|NAME|KEY|REASON|running_mean|NaN [A-Z]+|OUTLIER)\b")
"""What the page writes there."""


def section(title):
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(title):
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in section(title).splitlines() if line.startswith("|")]
    return [[each.strip().replace("\\|", "|") for each in row] for row in cells[2:]]


def quoted(cell):
    return re.findall(r"`([^`]+)`", cell)


def default_of(option):
    """Return a default as the table has it."""
    if option.is_flag:
        return (option.opts if option.default else option.secondary_opts or ["off"])[0]
    if isinstance(option.default, tuple):
        return " ".join(map(str, option.default))
    return "none" if option.default is None else str(option.default)


def test_the_flags_of_the_trainer_and_their_defaults_are_those_of_its_command_line():
    listed = {flag: quoted(default)[0] for flags, default, _ in rows("Flags of the trainer") for flag in quoted(flags)}
    options = [each for each in WAVESSM["train"].params if each.name != "help"]
    assert listed == {flag: default_of(each) for each in options for flag in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize(("program", "commands"), [("torchmend", DOCTOR), ("wavessm", WAVESSM)])
def test_every_command_is_shown_and_there_is_no_other(program, commands):
    assert {match[1] for line in LINES if (match := re.match(rf"{program} (\w+)", line))} == set(commands)


@pytest.mark.parametrize("line", [line for line in LINES if SHOWN.fullmatch(line)])
def test_a_command_that_is_shown_can_be_typed(line):
    program, *rest = shlex.split(line)
    if program == "python" and rest[0] == "diagnose_and_fix.py":
        classic.parser().parse_args(rest[1:])
        return
    name, *arguments = ["train", *rest[1:]] if program == "python" else rest
    commands = DOCTOR if program == "torchmend" else WAVESSM
    commands[name].make_context(name, arguments)


def test_options_in_the_text_are_some_program_s():
    known = {
        flag
        for command in (*WAVESSM.values(), *DOCTOR.values())
        for each in command.params
        for flag in each.opts + each.secondary_opts
    }
    known |= set(classic.parser()._option_string_actions)
    assert set(re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", PAGE)) - {"--help"} <= known


def test_the_exit_codes_are_those_of_the_commands():
    assert [int(quoted(code)[0]) for code, *_ in rows("Exit codes")] == sorted(Exit)


def test_the_options_for_incidents_and_their_defaults_are_those_of_the_guard():
    listed = {quoted(name)[0]: quoted(default)[0] for name, default, _ in rows("Options of the guard for incidents")}
    options = GuardOptions()
    assert listed == {name: str(getattr(options, name)) for name in ("localise", "loss", "capsules")}


def test_the_lines_of_an_incident_are_those_that_it_prints():
    found = Localisation(cause=Cause.LOSS, operation="div", samples=(5,), of=8, note="a note")
    tried = tuple(Remedy(kind=Kind.OPERATION, change="a change", helped=helped) for helped in (False, True))
    incident = Incident(
        step=1, what="it", undone="all", found=found, code=Code.DIVISION_BY_ZERO, remedies=tried, capsule="folder"
    )
    printed = [line[2:11].strip() for line in str(incident).splitlines()[1:]]
    assert [quoted(line)[0] for line, _ in rows("Lines of an incident")] == printed


@cache
def texts():
    """Return every text in the sources, with a hole for each thing that is filled in."""
    nodes = (node for path in (ROOT / "src").rglob("*.py") for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return {
        re.sub(f"{HOLE}+", HOLE, with_holes(each)) for each in nodes if isinstance(each, ast.Constant | ast.JoinedStr)
    }


def with_holes(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(map(with_holes, node.values))
    if isinstance(node, ast.FormattedValue):
        return HOLE
    return re.sub(r"%(?:\.\d)?[dsfg]", HOLE, node.value) if isinstance(node.value, str) else ""


def is_said(line):
    """Return whether a line that is quoted is in the sources; ` ...` at its end is any rest."""
    start = FILLED_IN.sub(HOLE, line.removesuffix(" ..."))
    return start in texts() or (line.endswith(" ...") and any(each.startswith(start) for each in texts()))


LOGGED = [quoted(row[0])[0] for title in ("Log lines: healthy", "Log lines: recovering") for row in rows(title)]
REFUSALS = [quoted(line)[0] for line in re.findall(r"^\| (`.*?`) \|", section("Troubleshooting"), re.MULTILINE)]


@pytest.mark.parametrize("line", [*LOGGED, *REFUSALS])
def test_a_line_that_is_quoted_is_in_the_program(line):
    assert is_said(line)


@pytest.mark.parametrize(
    "line",
    ["[HEALTH CHECK] iter N: All is well", "[SANITIZE] Cured running_mean: NAME", "PATH is of no model: ..."],
)
def test_a_line_that_no_program_says_would_be_found(line):
    assert not is_said(line)


def test_the_page_has_lines_of_both_kinds():
    assert len(LOGGED) >= 25
    assert len(REFUSALS) >= 5
