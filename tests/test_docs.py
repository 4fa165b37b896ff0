"""What the documentation shows is what happens, and every public name is in it."""

import doctest
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import torchmend
from docs_folder import make_example_files, run_the_training_of_incidents
from torchmend.cli.main import app

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    path.relative_to(DOCS).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(DOCS.rglob("*.md"))
    if path.relative_to(DOCS).parts[0] not in ("decisions", "_build")
}
WITH_EXAMPLES = [page for page, text in PAGES.items() if "```pycon\n" in text]
COMMANDS = {
    page: [line.split("#")[0].strip() for line in lines]
    for page, text in PAGES.items()
    if page != "ci.md"  # names files of its readers' own
    and (lines := re.findall(r"^torchmend .*$", "".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)), re.MULTILINE))
}
ENTRY = re.compile(r"^\.\. auto(?:function|class|exception):: torchmend\.(\w+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def failed_run(tmp_path_factory):
    """A folder in which the training of the page on incidents was run, and what it logged."""
    folder = tmp_path_factory.mktemp("incidents")
    return folder, run_the_training_of_incidents(folder)


@pytest.fixture
def in_example_folder(tmp_path, monkeypatch, failed_run):
    make_example_files(tmp_path)
    shutil.copytree(failed_run[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def examples_of(text):
    return "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))


def entries():
    """Map every documented name to the examples between its entry and the next."""
    found = {}
    for text in PAGES.values():
        _, *parts = ENTRY.split(text)
        found |= {name: examples_of(rest) for name, rest in zip(parts[::2], parts[1::2], strict=True)}
    return found


@pytest.mark.parametrize("page", WITH_EXAMPLES)
@pytest.mark.usefixtures("in_example_folder")
def test_the_examples_of_a_page_give_what_it_shows(page):
    test = doctest.DocTestParser().get_doctest(examples_of(PAGES[page]), {}, page, page, 0)
    report = []
    failed, attempted = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=report.append)
    assert attempted
    assert not failed, "".join(report)


def test_exactly_the_public_names_have_an_entry():
    assert sorted(entries()) == torchmend.__all__


@pytest.mark.parametrize("name", torchmend.__all__)
def test_the_entry_of_a_public_name_has_an_example_that_uses_it(name):
    assert re.search(rf"\b{name}\b", entries()[name])


@pytest.mark.parametrize("page", COMMANDS)
@pytest.mark.usefixtures("in_example_folder")
def test_the_commands_on_a_page_do_their_work_one_after_the_other(page):
    for command in COMMANDS[page]:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code in (0, 1), f"{command}\n{result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), command


def test_the_page_on_incidents_shows_what_its_training_logs(failed_run):
    shown = "".join(re.findall(r"```text\n(step .*?)```", PAGES["incidents.md"], re.DOTALL))
    assert failed_run[1] == shown


@pytest.mark.usefixtures("in_example_folder")
def test_the_page_on_incidents_shows_what_its_replay_prints():
    (shown,) = re.findall(r"```text\n(then .*?)```", PAGES["incidents.md"], re.DOTALL)
    result = CliRunner().invoke(app, shlex.split(COMMANDS["incidents.md"][0])[1:])
    assert (result.exit_code, result.stdout) == (0, shown)


@pytest.mark.parametrize("line", re.findall(r"^torchmend .*$", PAGES["trouble.md"], re.MULTILINE))
def test_a_command_against_trouble_can_be_typed(line):
    _, name, *arguments = shlex.split(line, comments=True)
    typer.main.get_command(app).commands[name].make_context(name, arguments)


def test_the_guide_shows_commands():
    assert len(COMMANDS["your-run-died.md"]) >= 6


@pytest.mark.parametrize("page", PAGES)
def test_a_link_to_another_page_leads_somewhere(page):
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]) if "://" not in link]
    missing = [target for target in targets if target and not (DOCS / page).parent.joinpath(target).exists()]
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if page != "index.md"])
def test_a_page_is_in_a_table_of_contents(page):
    listed = set()
    for index in ("index.md", "api/index.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", PAGES[index], re.DOTALL):
            folder = index.rpartition("/")[0]
            listed |= {f"{folder}/{line}.md".lstrip("/") for line in block.splitlines()}
    assert page in listed
