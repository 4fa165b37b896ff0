"""What checkpoints that belong together are called."""

from pathlib import Path

import pytest

from torchmend.facts.errors import UserError
from torchmend.keeping.families import Family


@pytest.mark.parametrize(
    ("path", "step", "target"),
    [
        ("run/last.pt", None, "run/last.pt"),
        ("run/last.pt", 7, "run/last.pt"),
        ("run/ckpt_{step}.pt", 7, "run/ckpt_7.pt"),
        ("run/ckpt_{step:06d}.pt", 7, "run/ckpt_000007.pt"),
        ("run/{steps}.pt", 7, "run/{steps}.pt"),
    ],
)
def test_a_name_takes_the_step_where_it_asks_for_it(path, step, target):
    assert Family.of(Path(path)).target(step) == Path(target)


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("last.pt", "last_best.pt"),
        ("ckpt_{step}.pt", "ckpt_best.pt"),
        ("net-step={step:06d}.ckpt", "net_best.ckpt"),
        ("{step}.pt", "best.pt"),
        ("folder", "folder_best"),
    ],
)
def test_the_best_is_named_without_the_step(name, best):
    assert Family.of(Path("run") / name).best == Path("run") / best


def test_a_name_that_needs_a_step_and_gets_none_is_refused():
    with pytest.raises(UserError, match=r"needs the step.*Pass step="):
        Family.of(Path("ckpt_{step}.pt")).target(None)


def test_a_step_in_the_name_of_a_folder_is_refused():
    with pytest.raises(UserError, match="file's own name"):
        Family.of(Path("run_{step}/last.pt"))
