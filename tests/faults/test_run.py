"""The command of the bench says what does not fit, and writes a page from results alone."""

import json

import pytest

from benchmarks.faults import run
from benchmarks.faults.columns import LOCALISING
from benchmarks.faults.places import Located
from benchmarks.faults.scoring import Played
from fault_scores import case, lost, pair_score, results, score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "nonsense"], "invalid choice: 'nonsense'"),
        (["--protections", "nonsense"], "invalid choice: 'nonsense'"),
        (["--seeds", "one"], "invalid int value: 'one'"),
        (["--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--page", "--cases", "bn_nan_sample"], "leave out --cases"),
        (["--page", "--protections", "none"], "leave out --cases"),
        (["--pairs", "--cases", "bn_nan_sample"], "leave out --cases"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run.main(arguments)
    assert message in capsys.readouterr().err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder as the bench's own, with results of one case under all protections."""
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "CASES", (case(),))
    scores = [(score if each.name == "torchmend" else lost)(protection=each.name) for each in run.PROTECTIONS]
    (tmp_path / "results.json").write_text(json.dumps(results(scores)))
    return tmp_path


def test_page_alone_is_made_from_the_results(folder):
    before = (folder / "results.json").read_bytes()
    run.main(["--page"])
    assert "| torchmend | 1 | 1 |" in (folder / "README.md").read_text()
    assert (folder / "matrix.png").exists()
    assert (folder / "results.json").read_bytes() == before


def test_a_page_of_results_that_are_not_there_says_what_to_do(folder, capsys):
    (folder / "results.json").unlink()
    with pytest.raises(SystemExit, match="2"):
        run.main(["--page"])
    assert "run the bench first, without --page" in capsys.readouterr().err


def test_a_page_of_other_cases_is_not_written(folder, monkeypatch, capsys):
    monkeypatch.setattr(run, "CASES", (case(), case("newer")))
    with pytest.raises(SystemExit, match="2"):
        run.main(["--page"])
    assert "newer under" in capsys.readouterr().err
    assert not (folder / "README.md").exists()


def test_a_full_run_writes_results_page_and_picture(folder, monkeypatch, capsys):
    seen = (Located(case="overflow", tool=each.name, seed=3, told=None) for each in LOCALISING)
    pair = pair_score()
    monkeypatch.setattr(run, "play_pairs", lambda seeds: [pair])
    monkeypatch.setattr(
        run,
        "played",
        lambda jobs, count: (Played(scores=(made(*each),), located=tuple(seen)) for each in expanded(jobs)),
    )
    run.main(["--seeds", "3", "--jobs", "1"])
    assert json.loads((folder / "results.json").read_text())["pairs"] == [pair.as_json()]
    assert json.loads((folder / "results.json").read_text())["seeds"] == [3]
    assert "with\n1 seed" in (folder / "README.md").read_text()
    assert "overflow" in capsys.readouterr().out


def test_pairs_alone_are_put_into_the_results_that_there_are(folder, monkeypatch):
    before = json.loads((folder / "results.json").read_text())
    pair = pair_score()
    monkeypatch.setattr(run, "play_pairs", lambda seeds: [pair])
    run.main(["--pairs"])
    assert json.loads((folder / "results.json").read_text()) == {**before, "pairs": [pair.as_json()]}
    assert "## Two processes" in (folder / "README.md").read_text()


def test_a_part_of_the_bench_writes_nothing(folder, monkeypatch, capsys):
    monkeypatch.setattr(run, "played", lambda jobs, count: (Played(scores=(made(*each),)) for each in expanded(jobs)))
    for each in folder.iterdir():
        each.unlink()
    run.main(["--protections", "none", "--jobs", "1"])
    assert list(folder.iterdir()) == []
    assert "overflow" in capsys.readouterr().out


def expanded(jobs):
    return [(name, protection, seed) for name, seed, protections in jobs for protection in protections]


def made(name, protection, seed):
    return score(name, protection, seed=seed)


def test_results_are_written_a_record_a_line_and_read_back_the_same():
    data = results([score(), lost(seed=1)], [0, 1])
    text = run.dumped(data)
    assert json.loads(text) == json.loads(json.dumps(data))
    assert max(each.count("latency") for each in text.splitlines()) == 1
