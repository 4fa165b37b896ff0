"""What a file's structure gives."""

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.formats.contents import Oddity
from torchmend.rules.files import judge_structure


@pytest.mark.parametrize(
    ("code", "severity"),
    [
        (Code.WRONG_CHECKSUM, Severity.ERROR),
        (Code.OVERLAPPING, Severity.ERROR),
        (Code.DUPLICATE_NAMES, Severity.ERROR),
        (Code.UNREFERENCED, Severity.NOTE),
    ],
)
def test_an_oddity_becomes_a_finding_with_its_detail(code, severity):
    (finding,) = judge_structure((Oddity(code=code, detail="data/3"),))
    assert (finding.code, finding.severity, finding.detail) == (code, severity, "data/3")


def test_a_file_without_oddities_gives_nothing():
    assert [*judge_structure(())] == []
