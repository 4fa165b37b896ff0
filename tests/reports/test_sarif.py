"""The SARIF log, against the part of the standard that it uses.

`sarif.schema.json` is a subset, written from the standard's object model: no package that ships the whole schema is
at hand, and the tests use no network.
"""

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest

import checkpoints
from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.sarif import FINGERPRINT, sarif_log, uri
from torchmend.rules.texts import TEXTS

SCHEMA = json.loads(Path(__file__).with_name("sarif.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

VAR = TensorRef(
    source="x", container="model", name="bn.running_var", shape=(4,), dtype="float32", role=Role.RUNNING_VAR
)
SCALE = Scalar(path=("extra", "scaler", "scale"), value=0.0, place=100)


def finding(code, severity=Severity.ERROR, **about):
    text = TEXTS[code]
    return Finding(code=code, severity=severity, message=text.consequence, remedy=text.remedy, **about)


BAD_VAR = finding(Code.VARIANCE_NOT_FINITE, ref=VAR, measure=Measure(numel=4, nan=1, absmax=2.0, bad_channels=(2,)))
BAD_SCALE = finding(Code.SCALER_BROKEN, scalar=SCALE, detail="scale 0")
OUTLIER = finding(Code.STATISTIC_OUTLIER, Severity.WARNING, ref=VAR, detail="channel 2: 1e12")
TRUNCATED = finding(Code.TRUNCATED)


def diagnosis(*findings, source="run/x.pth"):
    refs = () if TRUNCATED in findings else (VAR,)
    return Diagnosis(source=source, format="torch zip", nbytes=1000, main="model", refs=refs, findings=findings)


def run(*diagnoses, **more):
    """Return the log's only run, read back as strict JSON and checked against the schema."""
    log = json.loads(json.dumps(sarif_log(diagnoses, **more), allow_nan=False))
    VALIDATOR.validate(log)
    (only,) = log["runs"]
    return only


def results(*findings):
    return run(diagnosis(*findings))["results"]


def test_the_schema_is_a_schema_and_refuses_what_the_standard_does_not_know():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    log = sarif_log([diagnosis(BAD_VAR)])
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert not VALIDATOR.is_valid(log)


def test_every_code_is_a_rule_with_its_texts():
    rules = run()["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [code.value for code in Code]
    for rule in rules:
        text = TEXTS[Code(rule["id"])]
        assert rule["shortDescription"]["text"] == text.title
        assert rule["fullDescription"]["text"] == text.consequence
        assert text.remedy in rule["help"]["text"]
        assert rule["help"]["markdown"] == text.body


def test_rule_names_are_unique_words_in_one():
    names = [rule["name"] for rule in run()["tool"]["driver"]["rules"]]
    assert len(set(names)) == len(names)
    assert all(name.isalnum() and name[0].isupper() for name in names)


@pytest.mark.parametrize(
    ("code", "level"),
    [("TM101", "error"), ("TM105", "warning"), ("TM109", "note"), ("TM501", "error"), ("TM902", "error")],
)
def test_a_rule_has_the_level_that_its_findings_usually_have(code, level):
    (rule,) = [rule for rule in run()["tool"]["driver"]["rules"] if rule["id"] == code]
    assert rule["defaultConfiguration"]["level"] == level


def test_the_tool_has_name_and_version_and_no_address_that_it_does_not_have():
    driver = run()["tool"]["driver"]
    assert driver["name"] == "torchmend"
    assert driver["version"]
    assert "informationUri" not in driver


def test_a_result_points_to_its_rule_by_name_and_by_index():
    found = run(diagnosis(BAD_VAR, BAD_SCALE, OUTLIER, TRUNCATED))
    rules = found["tool"]["driver"]["rules"]
    assert [rules[result["ruleIndex"]]["id"] for result in found["results"]] == ["TM102", "TM402", "TM105", "TM902"]
    assert [result["ruleId"] for result in found["results"]] == ["TM102", "TM402", "TM105", "TM902"]


@pytest.mark.parametrize("severity", list(Severity))
def test_a_result_has_its_finding_s_severity(severity):
    (result,) = results(dataclasses.replace(OUTLIER, severity=severity))
    assert result["level"] == severity.name.lower()


def test_a_message_says_where_what_how_much_why_and_what_to_do():
    (result,) = results(BAD_VAR)
    text = TEXTS[Code.VARIANCE_NOT_FINITE]
    start = "model / bn.running_var: running variance not finite (NaN 1 / 4 Inf 0 / 4)."
    assert result["message"]["text"] == f"{start} {text.consequence} {text.remedy}"


def test_a_message_about_a_number_shows_the_number_once():
    (result,) = results(BAD_SCALE)
    assert result["message"]["text"].startswith("extra.scaler.scale = 0.0: GradScaler broken. ")


def test_a_message_with_figures_of_the_rule_shows_them():
    (result,) = results(OUTLIER)
    assert "(channel 2: 1e12)" in result["message"]["text"]


@pytest.mark.parametrize(
    ("about", "name"), [(BAD_VAR, "model.bn.running_var"), (BAD_SCALE, "extra.scaler.scale")], ids=["tensor", "number"]
)
def test_the_place_in_the_file_is_the_logical_location(about, name):
    (result,) = results(about)
    (location,) = result["locations"]
    assert [each["fullyQualifiedName"] for each in location["logicalLocations"]] == [name]


def test_a_finding_about_the_file_has_no_logical_location():
    (result,) = results(TRUNCATED)
    assert "logicalLocations" not in result["locations"][0]


def test_the_location_s_index_leads_to_the_artifact_of_the_same_uri():
    found = run(diagnosis(source="ok.pth"), diagnosis(BAD_VAR, source="bad.pth"))
    where = found["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert where == {"uri": "bad.pth", "index": 1}
    assert found["artifacts"][where["index"]]["location"]["uri"] == where["uri"]


def test_healthy_files_are_listed_among_the_artifacts():
    found = run(diagnosis(source="ok.pth"))
    assert found["results"] == []
    (artifact,) = found["artifacts"]
    assert (artifact["location"]["uri"], artifact["length"]) == ("ok.pth", 1000)
    assert artifact["properties"]["verdict"] == "healthy"


@pytest.mark.parametrize(
    ("source", "written"),
    [
        ("x.pth", "x.pth"),
        ("runs/7/x.pth", "runs/7/x.pth"),
        ("../x.pth", "../x.pth"),
        ("my run/x 100%.pth", "my%20run/x%20100%25.pth"),
        ("é.pth", "%C3%A9.pth"),
        ("a:b#c?.pth", "a%3Ab%23c%3F.pth"),
        ("/data/my run/x.pth", "file:///data/my%20run/x.pth"),
        ("broken\udcff.pth", "broken%FF.pth"),
    ],
)
def test_a_path_is_written_as_a_percent_encoded_uri(source, written):
    assert uri(source) == written


def test_figures_that_are_not_finite_never_become_json_numbers():
    measure = Measure(numel=1, nan=1, absmax=float("inf"), minimum=float("nan"))
    odd = finding(Code.LEARNING_RATE, scalar=Scalar(path=("lr",), value=float("nan")), detail="nan", measure=measure)
    (result,) = results(odd)
    assert result["properties"]["scalar"]["value"] == "nan"
    assert (result["properties"]["measure"]["absmax"], result["properties"]["measure"]["minimum"]) == (None, None)


def test_a_fingerprint_depends_on_code_and_place_alone():
    def fingerprint(about, source="x.pth"):
        (result,) = run(diagnosis(about, source=source))["results"]
        return result["partialFingerprints"][FINGERPRINT]

    worse = dataclasses.replace(BAD_VAR, measure=Measure(numel=4, nan=4), message="Other words.")
    elsewhere = dataclasses.replace(BAD_VAR, ref=dataclasses.replace(VAR, name="bn2.running_var"))
    negative = dataclasses.replace(BAD_VAR, code=Code.VARIANCE_NEGATIVE)
    assert fingerprint(BAD_VAR) == fingerprint(worse) == fingerprint(BAD_VAR, source="y.pth")
    assert len({fingerprint(each) for each in (BAD_VAR, elsewhere, negative)}) == 3


def test_a_run_in_which_all_was_checked_was_successful_whatever_was_found():
    (invocation,) = run(diagnosis(BAD_VAR))["invocations"]
    assert invocation == {"executionSuccessful": True, "toolExecutionNotifications": []}


def test_a_file_that_could_not_be_checked_makes_the_run_unsuccessful_and_is_named():
    (invocation,) = run(diagnosis(), diagnosis(TRUNCATED, source="cut.pth"))["invocations"]
    assert invocation["executionSuccessful"] is False
    (notification,) = invocation["toolExecutionNotifications"]
    assert notification["descriptor"] == {"id": "TM902"}
    assert notification["message"]["text"].startswith("cut.pth was not fully checked.")
    assert notification["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "cut.pth"


def test_a_problem_without_a_diagnosis_makes_the_run_unsuccessful_too():
    (invocation,) = run(diagnosis(), problems=["No checkpoint files in y."])["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == "No checkpoint files in y."


def test_only_the_findings_that_were_asked_for_become_results():
    found = run(diagnosis(BAD_VAR, BAD_SCALE), shown=[(BAD_SCALE,)])
    assert [result["ruleId"] for result in found["results"]] == ["TM402"]


def test_a_weight_with_a_sound_copy_is_not_sent_to_a_donor():
    weight = dataclasses.replace(VAR, name="w", role=Role.WEIGHT)
    copied = finding(Code.LIVE_NOT_FINITE, Severity.NOTE, ref=weight)
    found = results(finding(Code.WEIGHT_NOT_FINITE, ref=weight), copied)
    assert all("--donor" not in result["message"]["text"] for result in found)


def test_the_log_of_real_files_fits_the_standard(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fresh = checkpoints.training_checkpoint
    checkpoints.save(fresh(), tmp_path / "healthy.pth")
    checkpoints.save(checkpoints.nan_weight(checkpoints.infinite_second_moment(fresh())), tmp_path / "bad one.pth")
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    outcome = checkpoints.torchmend("diagnose", ".", "missing.pth", "--format", "sarif")
    log = json.loads(outcome.stdout)
    VALIDATOR.validate(log)
    assert outcome.rc == 2
    uris = [artifact["location"]["uri"] for artifact in log["runs"][0]["artifacts"]]
    assert uris == ["bad%20one.pth", "cut.pth", "healthy.pth", "missing.pth"]
