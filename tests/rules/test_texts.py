"""`codes.md` is complete, in order, and in one shape."""

import re
from importlib import resources

import pytest

from torchmend.facts.codes import Code
from torchmend.rules.texts import TEXTS

PAGE = resources.files("torchmend.rules").joinpath("codes.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## (\S+): (.+)$", PAGE, re.MULTILINE)
FIELDS = ["In short.", "How it happens.", "What it does.", "To do."]
codes = pytest.mark.parametrize("code", list(Code))


def test_every_code_has_a_section_and_every_section_has_a_code():
    assert [code for code, _ in HEADINGS] == [code.value for code in Code]


def test_sections_stand_in_the_order_of_their_codes():
    assert [code for code, _ in HEADINGS] == sorted(code for code, _ in HEADINGS)


def test_titles_are_unique():
    titles = [title for _, title in HEADINGS]
    assert len(set(titles)) == len(titles)


@codes
def test_a_section_has_its_fields_in_order(code):
    found = re.findall(r"^\*\*(.+?)\*\*", TEXTS[code].body, re.MULTILINE)
    assert [field for field in found if field != "To keep it away."] == FIELDS


@codes
def test_the_way_to_keep_it_away_comes_last_where_there_is_one(code):
    found = re.findall(r"^\*\*(.+?)\*\*", TEXTS[code].body, re.MULTILINE)
    assert "To keep it away." not in found[:-1]


@codes
@pytest.mark.parametrize("part", ["consequence", "remedy"])
def test_what_reports_print_is_one_line_that_ends_in_a_full_stop(code, part):
    text = getattr(TEXTS[code], part)
    assert text.endswith(".")
    assert "\n" not in text


@codes
def test_what_reports_print_is_the_section_s_own_words(code):
    flat = " ".join(TEXTS[code].body.split())
    assert f"**In short.** {TEXTS[code].consequence}" in flat
    assert f"**To do.** {TEXTS[code].remedy}" in flat


@codes
def test_a_section_starts_with_its_heading_and_ends_with_one_newline(code):
    body = TEXTS[code].body
    assert body.startswith(f"## {code.value}: {TEXTS[code].title}\n")
    assert body.endswith(".\n")


@codes
def test_a_section_holds_no_other_section(code):
    assert TEXTS[code].body.count("\n## ") == 0


def test_the_table_of_prefixes_lists_exactly_the_families():
    listed = re.findall(r"^\| (TM\d)xx \|", PAGE, re.MULTILINE)
    assert listed == sorted({code.family for code in Code})


@pytest.mark.parametrize("code", [Code.WEIGHT_NOT_FINITE, Code.BIAS_NOT_FINITE])
def test_codes_about_damaged_weights_tell_the_user_to_name_a_donor(code):
    assert "--donor" in TEXTS[code].remedy


@pytest.mark.parametrize(
    "code", [code for code in Code if "not finite" in TEXTS[code].title or "negative" in TEXTS[code].title]
)
def test_codes_about_damage_say_how_to_keep_it_away(code):
    assert "**To keep it away.**" in TEXTS[code].body
