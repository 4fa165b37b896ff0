"""Whatever is saved in whatever order: the newest healthy state is there, and nobody else's file is touched."""

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import torchmend
from live.saving.states import corrupted, healthy, value_in

ACTIONS = st.lists(st.sampled_from(["healthy", "corrupted", "metric", "nan metric", "foreign"]), max_size=12)
FOREIGN = ("notes.txt", "last.7.pt", "other.pt", "last_final.pt")


@settings(max_examples=40, deadline=None, derandomize=True)
@given(actions=ACTIONS, keep=st.integers(1, 3))
def test_after_any_prefix_the_newest_healthy_state_is_there(actions, keep):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for foreign in FOREIGN:
            (folder / foreign).write_text(foreign)
        newest, healthy_ones, best, foreign_saves = None, [], None, []
        for value, action in enumerate(actions, 1):
            if action == "foreign":
                torch.save({"step": 1, **healthy(1000 + value)}, folder / "last.pt")
                newest = 1000 + value
                foreign_saves.append(newest)
                continue
            if action == "corrupted":
                torchmend.save(corrupted(), folder / "last.pt", keep=keep, metric=99.0)
            elif action == "healthy":
                torchmend.save(healthy(value), folder / "last.pt", keep=keep)
            else:
                metric = float("nan") if action == "nan metric" else float(value % 5)
                torchmend.save(healthy(value), folder / "last.pt", keep=keep, metric=metric)
                if action == "metric" and (best is None or metric > best[0]):
                    best = metric, value
            if action != "corrupted":
                newest = value
                healthy_ones.append(value)
            check(folder, keep, newest, healthy_ones, best)


def check(folder, keep, newest, healthy_ones, best):
    assert all((folder / foreign).read_text() == foreign for foreign in FOREIGN)
    if newest is not None:
        assert value_in(folder / "last.pt") == newest
    kept = [value_in(each) for each in folder.glob("last*.pt") if each.name not in (*FOREIGN, "last_best.pt")]
    ours = sorted({value for value in kept if value < 1000}, reverse=True)
    assert ours == [value for value in reversed(healthy_ones) if value in ours]
    assert len(ours) <= keep + 1
    if best is not None:
        assert value_in(folder / "last_best.pt") == best[1]
