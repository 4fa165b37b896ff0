"""`torchmend explain`."""

import pytest

from checkpoints import torchmend
from torchmend.facts.codes import Code
from torchmend.rules.texts import TEXTS


@pytest.mark.parametrize("code", list(Code))
def test_a_code_gives_its_whole_section(code):
    outcome = torchmend("explain", code.value)
    assert (outcome.rc, outcome.stdout, outcome.stderr) == (0, TEXTS[code].body, "")


def test_lower_case_will_do():
    assert torchmend("explain", "tm101") == torchmend("explain", "TM101")


@pytest.mark.parametrize(
    ("prefix", "codes"),
    [
        ("TM5", ["TM501", "TM502"]),
        ("TM20", [f"TM20{n}" for n in range(1, 7)]),
        ("TM", [code.value for code in Code]),
    ],
)
def test_a_prefix_lists_codes_with_their_titles(prefix, codes):
    outcome = torchmend("explain", prefix)
    assert outcome.rc == 0
    assert outcome.stdout.splitlines() == [f"{code}  {TEXTS[Code(code)].title}" for code in codes]


def test_a_prefix_that_fits_one_code_gives_its_section():
    assert torchmend("explain", "TM401").stdout == TEXTS[Code.METADATA_NOT_FINITE].body


@pytest.mark.parametrize("word", ["nonsense", "TM8", "TM1011", "", "T", "101"])
def test_anything_else_exits_2_and_lists_the_codes(word):
    outcome = torchmend("explain", word)
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"torchmend: There is no code {word!r}. The codes are TM101, ")


def test_no_code_at_all_exits_2():
    assert torchmend("explain").rc == 2
