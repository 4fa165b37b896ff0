"""The JSON reports against their schema."""

import json
from importlib import resources

import jsonschema
import pytest

import checkpoints
from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure
from torchmend.facts.plans import (
    CopyDamaged,
    Edit,
    FillAll,
    FillDamaged,
    Refusal,
    RepairPlan,
    Rung,
    ScalarEdit,
    Values,
)
from torchmend.facts.tensors import Scalar, TensorRef
from torchmend.reports import machine

SCHEMA = json.loads(resources.files("torchmend.reports").joinpath("diagnosis.schema.json").read_text(encoding="utf-8"))


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def report(*arguments):
    """Run a command with `--format json` and return its report, read strictly."""
    outcome = checkpoints.torchmend(*arguments, "--format", "json")
    return json.loads(outcome.stdout, parse_constant=no_constant)


@pytest.fixture
def folder(tmp_path):
    fresh = checkpoints.training_checkpoint
    checkpoints.save(fresh(), tmp_path / "healthy.pth", age=10)
    checkpoints.save(checkpoints.infinite_mean(fresh()), tmp_path / "damaged.pth")
    refused = checkpoints.nan_weight(checkpoints.negative_second_moment(fresh()))
    checkpoints.save(refused, tmp_path / "refused.pth")
    rate = fresh() | {"best_psnr": float("nan"), "losses": checkpoints.torch.tensor([1.0, float("nan")])}
    rate["optimizer_state_dict"]["param_groups"][0]["lr"] = float("nan")
    checkpoints.save(rate, tmp_path / "metadata.pth", age=20)
    (tmp_path / "unreadable.pth").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


CASES = {
    "healthy": (("diagnose", "healthy.pth"), "healthy"),
    "damaged": (("diagnose", "damaged.pth"), "fixable"),
    "refusing": (("diagnose", "refused.pth"), "needs donor"),
    "unreadable": (("diagnose", "unreadable.pth"), "unchecked"),
    "missing": (("diagnose", "missing.pth"), "unchecked"),
    "fixed": (("fix", "damaged.pth"), "fixable"),
    "fixed in place": (("fix", "damaged.pth", "--in-place"), "fixable"),
    "planned": (("fix", "damaged.pth", "--dry-run"), "fixable"),
    "refused": (("fix", "refused.pth"), "needs donor"),
    "given": (("fix", "refused.pth", "--donor", "healthy.pth"), "needs donor"),
    "nothing to fix": (("fix", "healthy.pth"), "healthy"),
    "metadata": (("diagnose", "metadata.pth"), "fixable"),
    "metadata refused": (("fix", "metadata.pth", "--dry-run"), "fixable"),
    "not fixable": (("fix", "unreadable.pth"), "unchecked"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_report_fits_the_schema_and_has_its_verdict(folder, monkeypatch, case):
    monkeypatch.chdir(folder)
    arguments, verdict = CASES[case]
    data = report(*arguments)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert [result["verdict"] for result in data["results"]] == [verdict]


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_the_schema_refuses_a_result_without_a_verdict(folder):
    data = report("diagnose", folder / "healthy.pth")
    del data["results"][0]["verdict"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(SCHEMA).validate(data)


def test_the_schema_names_every_field_of_every_part():
    tensor, edit = SCHEMA["$defs"]["tensor"], SCHEMA["$defs"]["edit"]["allOf"][1]
    for part in (tensor, edit, SCHEMA["$defs"]["finding"], SCHEMA["$defs"]["result"]):
        assert set(part["required"]) <= set(part["properties"])


def test_several_files_give_one_report_with_a_result_each(folder):
    data = report("diagnose", folder / "healthy.pth", folder / "damaged.pth")
    assert [result["verdict"] for result in data["results"]] == ["healthy", "fixable"]


def test_the_report_names_its_schema_and_its_tool(folder):
    data = report("diagnose", folder / "healthy.pth")
    assert data["schema"] == machine.SCHEMA_VERSION == SCHEMA["properties"]["schema"]["const"]
    assert data["tool"]["name"] == "torchmend"


def test_a_finding_has_tensor_and_measure(folder):
    (finding,) = report("diagnose", folder / "damaged.pth")["results"][0]["findings"]
    assert (finding["code"], finding["severity"]) == ("TM101", "error")
    assert (finding["tensor"]["name"], finding["tensor"]["shape"]) == (checkpoints.MEAN, [64])
    assert (finding["measure"]["pos_inf"], finding["measure"]["bad_channels"]) == (64, list(range(64)))


def test_a_finding_about_the_file_has_neither_tensor_nor_measure(folder):
    (finding,) = report("diagnose", folder / "unreadable.pth")["results"][0]["findings"]
    assert (finding["code"], finding["tensor"], finding["measure"]) == ("TM901", None, None)


def test_a_repair_says_what_was_written_where(folder):
    repair = report("fix", folder / "damaged.pth")["results"][0]["repair"]
    assert repair["output"] == str(folder / "damaged_FIXED.pth")
    assert (repair["verdict_after"], repair["backup"], repair["refused"]) == ("healthy", None, [])
    (edit,) = repair["edits"]
    assert (edit["name"], edit["count"], edit["change"]["kind"]) == (checkpoints.MEAN, 64, "values")


def test_a_repair_in_place_names_the_backup(folder):
    repair = report("fix", folder / "damaged.pth", "--in-place")["results"][0]["repair"]
    assert repair["backup"] == str(folder / "damaged.pth.bak")


def test_a_refused_repair_has_no_output_and_names_what_was_refused_and_who_could_help(folder):
    repair = report("fix", folder / "refused.pth")["results"][0]["repair"]
    assert (repair["output"], repair["verdict_after"]) == (None, None)
    assert [each["name"] for each in repair["refused"]] == [checkpoints.CONV_WEIGHT]
    assert repair["siblings"] == [str(folder / "healthy.pth")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None])
def test_numbers_that_json_cannot_hold_become_null(value):
    assert machine.number(value) is None


@pytest.mark.parametrize("value", [0.0, -1.5, 3e38, 5e-324])
def test_other_numbers_stay(value):
    assert machine.number(value) == value


REF = TensorRef(source="x", container="m", name="a", shape=(4,), dtype="float32")
SCALAR = Scalar(path=("best", 0), value=float("nan"), place=9)


def part(name):
    """Return a validator for one definition of the schema."""
    return jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{name}", "required": [], "properties": {}})


@pytest.mark.parametrize(
    ("change", "data"),
    [
        (Values(index=(1, 2), values=(0.5, 1.0)), {"kind": "values", "index": [1, 2], "values": [0.5, 1.0]}),
        (FillDamaged(value=0.0), {"kind": "fill damaged", "value": 0.0, "also": []}),
        (FillDamaged(value=0.0, also=(REF,)), {"kind": "fill damaged", "value": 0.0, "also": ["m.a"]}),
        (CopyDamaged(source="d.pth", ref=REF), {"kind": "copy damaged", "source": "d.pth", "tensor": "m.a"}),
    ],
)
def test_every_kind_of_change_becomes_plain_data(change, data):
    edit = Edit(ref=REF, change=change, count=2, rung=Rung.DONOR)
    assert machine.plan_data(RepairPlan(source="x", edits=(edit,)))["edits"][0]["change"] == data


def test_a_fill_of_everything_becomes_plain_data_that_fits_the_schema():
    edit = Edit(ref=REF, change=FillAll(value=65536.0), count=4, rung=Rung.FRESH, codes=(Code.SCALER_BROKEN,))
    data = machine.plan_data(RepairPlan(source="x", edits=(edit,)))
    part("edit").validate(data["edits"][0])
    assert data["edits"][0]["change"] == {"kind": "fill all", "value": 65536.0}
    assert data["edits"][0]["codes"] == ["TM402"]


def test_an_edit_of_a_number_becomes_plain_data_that_fits_the_schema():
    edit = ScalarEdit(scalar=SCALAR, value=float("inf"), rung=Rung.WORST, reason="because", codes=(Code.BEST_METRIC,))
    data = machine.plan_data(RepairPlan(source="x", scalars=(edit,)))["scalars"][0]
    part("scalar_edit").validate(data)
    assert (data["path"], data["value"], data["becomes"], data["codes"]) == (["best", 0], "nan", "inf", ["TM404"])


@pytest.mark.parametrize("about", [REF, SCALAR], ids=["tensor", "number"])
def test_a_refusal_fits_the_schema_whatever_it_is_about(about):
    data = machine.plan_data(RepairPlan(source="x", refused=(Refusal(about=about, reason="no"),)))
    part("refusal").validate(data["refused"][0])


def test_a_finding_about_a_number_fits_the_schema():
    finding = Finding(
        code=Code.BEST_METRIC, severity=Severity.WARNING, message="It is.", remedy="Do.", scalar=SCALAR, detail="nan"
    )
    (data,) = machine.diagnosis_data(Diagnosis(source="x", findings=(finding,)))["findings"]
    part("finding").validate(data)
    assert (data["scalar"], data["detail"], data["tensor"]) == ({"path": ["best", 0], "value": "nan"}, "nan", None)


@pytest.mark.parametrize("bad", [{"ranges": [[1]]}, {"ranges": [[1, 2, 3, 4]]}, {"ranges": [[-1, 2]]}, {"name": None}])
def test_the_schema_knows_what_undoes_a_repair(bad):
    stamp = {"path": "x.pth", "bytes": 10, "sha256": "0" * 64}
    file = {"name": "", "ranges": [[1, 2], [4, 2, 3]], "source": stamp, "result": stamp}
    undo = {"sidecar": "x.bin", "sidecar_sha256": "0" * 64, "files": [file]}
    part("undo").validate(undo)
    assert not part("undo").is_valid(undo | {"files": [file | bad]})


def test_the_record_beside_a_repaired_file_fits_the_schema(folder):
    report("fix", folder / "damaged.pth")
    record = json.loads((folder / "damaged_FIXED.repair.json").read_text(encoding="utf-8"), parse_constant=no_constant)
    jsonschema.Draft202012Validator(SCHEMA).validate(record)


def test_a_file_that_is_wrong_in_itself_has_a_verdict_that_the_schema_knows():
    wrong = Finding(code=Code.WRONG_CHECKSUM, severity=Severity.ERROR, message="It is.", remedy="Do.")
    data = machine.envelope([machine.diagnosis_data(Diagnosis(source="x", findings=(wrong,)))])
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert data["results"][0]["verdict"] == "do not trust"


def test_refusals_become_plain_data():
    data = machine.plan_data(RepairPlan(source="x", refused=(Refusal(about=REF, reason="no"),)))
    assert [(each["name"], each["reason"]) for each in data["refused"]] == [("a", "no")]


def test_an_estimate_that_is_not_finite_becomes_null():
    edit = Edit(ref=REF, change=FillDamaged(value=0.0), count=1, rung=Rung.IDENTITY, error=float("inf"))
    assert machine.plan_data(RepairPlan(source="x", edits=(edit,)))["edits"][0]["error"] is None


def test_every_field_of_a_measure_is_in_the_schema(folder):
    (finding,) = report("diagnose", folder / "damaged.pth")["results"][0]["findings"]
    assert set(finding["measure"]) == set(SCHEMA["$defs"]["measure"]["properties"])
    assert set(finding["measure"]) == set(Measure.__dataclass_fields__)
