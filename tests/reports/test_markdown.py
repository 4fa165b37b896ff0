"""The Markdown report, for comments on pull requests and job summaries."""

import dataclasses

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.markdown import markdown_report
from torchmend.rules.texts import TEXTS

MEAN = TensorRef(
    source="x", container="model", name="bn.running_mean", shape=(64,), dtype="float32", role=Role.RUNNING_MEAN
)
WEIGHT = dataclasses.replace(MEAN, name="conv.weight", role=Role.WEIGHT)


def finding(code, severity=Severity.ERROR, **about):
    text = TEXTS[code]
    return Finding(code=code, severity=severity, message=text.consequence, remedy=text.remedy, **about)


BAD_MEAN = finding(Code.MEAN_NOT_FINITE, ref=MEAN, measure=Measure(numel=64, nan=3, pos_inf=1))
BAD_WEIGHT = finding(Code.WEIGHT_NOT_FINITE, ref=WEIGHT, measure=Measure(numel=64, nan=3))
BAD_RATE = finding(Code.LEARNING_RATE, scalar=Scalar(path=("lr",), value=float("nan"), place=9), detail="nan")
NOTE = finding(Code.STATISTIC_BEYOND_HALF, Severity.NOTE, ref=MEAN, detail="70000")
TRUNCATED = finding(Code.TRUNCATED)
CHECKSUM = finding(Code.WRONG_CHECKSUM, detail="archive/data/3")


def diagnosis(*findings, source="x.pth"):
    return Diagnosis(source=source, format="torch zip", nbytes=1000, main="model", refs=(MEAN,), findings=findings)


def lines(*diagnoses, **more):
    return markdown_report(diagnoses, **more).splitlines()


def row(about):
    """Return the cells of a finding's row: code, severity, where, seen, to do."""
    table = [line for line in lines(diagnosis(about)) if line.startswith(f"| {about.code.value}")]
    return [cell.strip() for cell in table[0].strip("|").split(" | ")]


@pytest.mark.parametrize(
    ("diagnoses", "heading"),
    [
        ((diagnosis(),), "## Checkpoints: the file is healthy"),
        ((diagnosis(NOTE), diagnosis()), "## Checkpoints: all 2 files are healthy"),
        ((diagnosis(BAD_MEAN),), "## Checkpoints: of 1 file, 1 damaged"),
        (
            (diagnosis(BAD_MEAN), diagnosis(TRUNCATED), diagnosis()),
            "## Checkpoints: of 3 files, 1 damaged and 1 could not be checked",
        ),
        ((diagnosis(CHECKSUM),), "## Checkpoints: of 1 file, 1 damaged"),
        ((), "## Checkpoints: nothing was checked"),
    ],
)
def test_the_heading_is_the_verdict_in_words(diagnoses, heading):
    assert lines(*diagnoses)[0] == heading


def test_a_problem_is_told_and_keeps_the_heading_from_saying_healthy():
    found = lines(diagnosis(), problems=["No checkpoint files in y."])
    assert found[0] == "## Checkpoints: not everything could be checked"
    assert "**Not checked:** No checkpoint files in y." in found


def test_the_files_are_listed_worst_first():
    found = lines(diagnosis(source="a"), diagnosis(BAD_MEAN, source="b"), diagnosis(TRUNCATED, source="c"))
    assert [line.split(" | ")[:2] for line in found if line.startswith("| `")] == [
        ["| `c`", "**unchecked**"],
        ["| `b`", "**fixable**"],
        ["| `a`", "healthy"],
    ]


def test_a_file_s_row_counts_its_findings_by_severity():
    found = lines(diagnosis(BAD_MEAN, BAD_WEIGHT, NOTE))
    assert "| `x.pth` | **needs donor** | 2 | 0 | 1 | 1 | 1.0 kB |" in found


def test_a_finding_s_row_has_code_severity_place_count_and_remedy():
    remedy = TEXTS[Code.MEAN_NOT_FINITE].remedy
    expected = ["TM101 running mean not finite", "error", "`model / bn.running_mean`", "NaN 3 / 64, Inf 1 / 64", remedy]
    assert row(BAD_MEAN) == expected


def test_a_number_s_row_has_its_path_and_value():
    assert row(BAD_RATE)[2:4] == ["`lr`", "nan"]


def test_a_row_about_the_file_says_what_is_wrong_with_it():
    assert row(CHECKSUM)[2:4] == ["the file", f"{CHECKSUM.message}; archive/data/3"]


def test_a_file_without_findings_has_no_table_of_them():
    assert not any(line.startswith("###") for line in lines(diagnosis()))


def test_errors_stand_before_notes():
    found = [line[2:7] for line in lines(diagnosis(NOTE, BAD_MEAN)) if line.startswith("| TM")]
    assert found == ["TM101", "TM109"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("a|b", "`model / a\\|b`"),
        ("a`b", "`` model / a`b ``"),
        ("a``b", "``` model / a``b ```"),
        ("a\nb", "`model / a\\nb`"),
    ],
)
def test_what_would_break_out_of_a_cell_is_kept_in(name, cell):
    about = dataclasses.replace(BAD_MEAN, ref=dataclasses.replace(MEAN, name=name))
    (table_row,) = [line for line in lines(diagnosis(about)) if line.startswith("| TM101")]
    assert f" | {cell} | " in table_row


def test_markup_in_a_detail_is_shown_and_not_obeyed():
    about = dataclasses.replace(NOTE, detail="<img src=x> [a](b) *c* @d | e")
    (table_row,) = [line for line in lines(diagnosis(about)) if line.startswith("| TM109")]
    assert "&lt;img src=x&gt; \\[a\\](b) \\*c\\* \\@d \\| e" in table_row


def test_a_pipe_in_a_file_s_name_does_not_split_the_row():
    assert any(line.startswith("| `a\\|b.pth` | ") for line in lines(diagnosis(source="a|b.pth")))


def many(number):
    names = (f"bn{n}.running_mean" for n in range(number))
    return [dataclasses.replace(BAD_MEAN, ref=dataclasses.replace(MEAN, name=name)) for name in names]


def test_a_code_gets_ten_rows_and_the_rest_is_counted():
    found = lines(diagnosis(*many(25), NOTE))
    assert sum(line.startswith("| TM101") for line in found) == 10
    assert sum(line.startswith("| TM109") for line in found) == 1
    assert "and 15 more findings; `--format json` lists all" in found


@pytest.mark.parametrize(("number", "folded"), [(5, False), (6, True)])
def test_a_long_table_is_folded(number, folded):
    found = lines(diagnosis(*many(number)))
    assert (f"<summary>{number} findings</summary>" in found) is folded
    assert ("</details>" in found) is folded


def test_files_beyond_fifty_are_counted():
    found = lines(*(diagnosis(source=f"{n}.pth") for n in range(52)))
    assert sum(line.startswith("| `") for line in found) == 50
    assert "and 2 more files; `--format json` lists all" in found


@pytest.mark.parametrize(
    ("about", "command"),
    [
        (BAD_MEAN, "Next: `torchmend fix x.pth`"),
        (BAD_RATE, "Next: `torchmend fix x.pth --metadata`"),
        (BAD_WEIGHT, "Next: `torchmend fix x.pth --donor OTHER_CHECKPOINT`"),
    ],
)
def test_the_last_line_is_the_command_to_run_next(about, command):
    assert lines(diagnosis(about))[-1] == command


@pytest.mark.parametrize("about", [NOTE, TRUNCATED, CHECKSUM])
def test_no_command_is_proposed_where_none_would_help(about):
    assert not any(line.startswith("Next:") for line in lines(diagnosis(about)))


def test_only_the_findings_that_were_asked_for_are_listed():
    found = lines(diagnosis(BAD_MEAN, BAD_WEIGHT), shown=[(BAD_WEIGHT,)])
    assert not any("TM101" in line for line in found)
    assert found[0] == "## Checkpoints: of 1 file, 1 damaged"


def test_a_report_ends_with_one_newline():
    text = markdown_report([diagnosis(BAD_MEAN)])
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
