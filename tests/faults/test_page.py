"""The page says what the results hold."""

import pytest

from benchmarks.faults.case import Kind
from benchmarks.faults.markdown import linked
from benchmarks.faults.ours import Torchmend
from benchmarks.faults.page import page
from benchmarks.faults.protections import Nothing
from benchmarks.faults.training import Act
from fault_scores import case, lost, results, score

BOTH = (Nothing, Torchmend)


def written(ours, bare=None, about=None):
    """Return the page of one case, its scores by seed."""
    bare = bare or [lost(protection="none", seed=each.seed) for each in ours]
    return page(results([*bare, *ours], [each.seed for each in ours]), [about or case()], BOTH)


def row(text, first):
    """Return the cells of the first row that begins so."""
    line = next(each for each in text.splitlines() if each.startswith(f"| {first}"))
    return [each.strip() for each in line.strip("|").split(" | ")]


def section(text, title):
    """Return what stands below a heading, up to the next."""
    return text.split(f"\n### {title}\n")[1].split("\n#")[0]


def test_the_summary_counts_cases_alarms_and_cost():
    alarmed = score(twin_equal=False, false_alarms=2)
    text = written([alarmed])
    assert row(text, "torchmend |") == ["torchmend", "1", "1", "1", "1", "2", "0", "1.50"]
    assert row(text, "none |") == ["none", "1", "0", "0", "0", "0", "1", "1.50"]


def test_a_case_counts_as_met_with_every_seed_only():
    text = written([score(), lost(seed=1)])
    assert row(text, "torchmend |")[2:4] == ["0", "0"]
    assert row(text, "[overflow]")[-1].startswith("1 of 2; ")


def test_a_class_counts_its_cases_alone():
    cases = [case(), case("silent", kind=Kind.SILENT)]
    scores = [lost("overflow", "none"), score("overflow"), lost("silent", "none"), lost("silent")]
    text = page(results(scores), cases, BOTH)
    assert row(text, "latent poison |") == ["latent poison", "1", "0", "1"]
    assert row(text, "silent bias |") == ["silent bias", "1", "0", "0"]


@pytest.mark.parametrize(
    ("seeds", "cell"),
    [
        ([score()], "**1 of 1**; 1.00; undo; +0"),
        ([lost()], "0 of 1; 0.10; nothing"),
        ([lost(metric=float("nan")), lost(seed=1, metric=0.9)], "0 of 2; 0.50 (0.00); nothing"),
        ([lost(finite=False)], "0 of 1; 0.10, not finite; nothing"),
        ([score(latency=-1, false_alarms=1)], "**1 of 1**; 1.00; undo; -1; 1 false alarm on the twin"),
        (
            [score(), score(seed=1, metric=0.81, latency=4, acts=(Act.WARN,)), lost(seed=2)],
            "2 of 3; 0.90 (0.10); undo, warn; +0 to +4",
        ),
    ],
)
def test_a_cell_tells_seeds_metric_acts_and_latency(seeds, cell):
    assert row(written(seeds), "[overflow]")[-1] == cell


def test_a_row_says_what_happens_in_one_sentence():
    assert row(written([score()]), "[overflow]")[:4] == [
        "[overflow](#overflow)",
        "latent poison",
        "A layer overflows",
        "some/where#12, #34",
    ]


def test_a_case_that_is_lost_is_told_with_its_reason_and_figures():
    text = section(written([lost()], about=case(loses_because="Nobody looks.")), "Lost: overflow")
    assert "Nobody looks." in text
    assert row(text, "0 |") == ["0", "0.900", "0.090", "0.090", "no", "nothing"]


def test_a_case_that_is_won_is_not_among_the_lost():
    text = written([score()])
    assert "0 cases of 1" in text
    assert "### Lost" not in text


def test_who_does_better_is_named():
    text = written([lost()], bare=[score(protection="none")])
    assert "Met with more seeds by: none." in section(text, "Lost: overflow")


def test_a_clean_run_that_is_touched_is_named_among_what_is_lost():
    text = written([score(twin_equal=False)])
    assert "does not leave as they are, to the last bit:\n\n- [overflow](#overflow)\n" in text


def test_a_better_end_with_another_protection_is_told_where_the_aim_was_met_by_telling():
    text = written([score(recovered=False, metric=0.09)], bare=[score(protection="none", met=False, metric=0.45)])
    assert "- [overflow](#overflow): 0.50 of the clean metric with none, 0.10 with torchmend\n" in text


@pytest.mark.parametrize("ours", [{"metric": 0.88}, {"recovered": False, "metric": 0.87}], ids=["recovered", "near"])
def test_a_case_that_is_recovered_or_nearly_is_not_called_outdone(ours):
    text = written([score(**ours)], bare=[score(protection="none")])
    assert "ends better" not in text


def test_a_loss_that_did_not_come_about_is_named():
    text = written([score()], about=case(loses_because="Nobody looks."))
    assert "met with every seed here:\n\n- [overflow](#overflow). Nobody looks.\n" in text


def test_a_case_is_described_with_what_it_asks_for_and_what_was_said():
    about = case(kind=Kind.SILENT, causes=("TM606",), required=frozenset({Act.WARN, Act.STOP}))
    text = section(written([score(cause="TM606 `a`\nb")], about=about), "overflow")
    assert about.what in text
    assert "Asked for: stop or warn, with a cause that holds `TM606`." in text
    assert "What torchmend says first: `TM606 'a' b`." in text


@pytest.mark.parametrize(
    ("reported", "links"),
    [
        (
            "a/b.c#1, #2",
            "[a/b.c#1](https://github.com/a/b.c/issues/1), [#2](https://github.com/a/b.c/issues/2)",
        ),
        ("a/b#1; a report, section 5.1", "[a/b#1](https://github.com/a/b/issues/1); a report, section 5.1"),
        ("a/b#1, other#2", "[a/b#1](https://github.com/a/b/issues/1), other#2"),
    ],
)
def test_reports_become_links(reported, links):
    assert linked(reported) == links


@pytest.mark.parametrize(
    ("scores", "odd"),
    [
        ([score()], "overflow under none"),
        ([lost(protection="none"), score(), score("gone")], "gone under torchmend"),
    ],
)
def test_results_of_other_cases_are_refused(scores, odd):
    with pytest.raises(ValueError, match=rf"{odd}.*run the bench again"):
        page(results(scores), [case()], BOTH)
