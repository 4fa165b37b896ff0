"""What the README shows is what happens."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import torchmend
from torchmend.cli.main import app

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.startswith("torchmend ")
]


EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def in_a_run_folder(tmp_path, monkeypatch):
    """Give the files that the README names: a damaged run, a healthy best one."""
    state = {"c.weight": torch.ones(3, 2), "b.running_mean": torch.zeros(3), "b.running_var": torch.ones(3)}
    torch.save(state, tmp_path / "run_best.pth")
    state["b.running_var"][1] = float("nan")
    for name in ("run.pth", "other.pth", "runs/7/last.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, tmp_path / name)
    whole = (tmp_path / "run.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: whole.rindex(b"PK\x03\x04")])  # as a full disk leaves it
    monkeypatch.chdir(tmp_path)


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.usefixtures("in_a_run_folder")
def test_a_command_of_the_readme_does_its_work(command):
    expected = 1 if re.search(" (diagnose|compare) ", command) else 0
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == expected, result.output


@pytest.mark.usefixtures("in_a_run_folder")
def test_the_python_example_runs(capsys):
    (example,) = (each for each in EXAMPLES if "diagnose" in each)
    exec(example, {"torchmend": torchmend})
    assert capsys.readouterr().out.splitlines()[0].startswith("TM102 b.running_var")
    assert Path("run_FIXED.pth").exists()


def test_the_guard_s_example_guards():
    (example,) = (each for each in EXAMPLES if "Guard" in each)
    model = torch.nn.Linear(2, 1)
    names = {"torchmend": torchmend, "model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    exec(example, names)
    model(torch.full((1, 2), float("nan"))).sum().backward()
    names["optimizer"].step()
    assert model.weight.isfinite().all()
