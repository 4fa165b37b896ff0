"""The report for a terminal."""

import dataclasses

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Diagnosis, Finding, Measure, Skipped
from torchmend.facts.tensors import Role, Scalar, TensorRef
from torchmend.reports.text import diagnosis_text, headline
from torchmend.rules.texts import TEXTS


def ref(name, role, shape=(64,), container="model", **more):
    return TensorRef(source="x", container=container, name=name, shape=shape, dtype="float32", role=role, **more)


def finding(code, tensor, **counts):
    text = TEXTS[code]
    return Finding(
        code=code,
        severity=Severity.NOTE if code is Code.METADATA_NOT_FINITE else Severity.ERROR,
        message=text.consequence,
        remedy=text.remedy,
        ref=tensor,
        measure=Measure(numel=tensor.numel, **counts) if counts else None,
    )


MEAN = ref("bn.running_mean", Role.RUNNING_MEAN)
VAR = ref("bn.running_var", Role.RUNNING_VAR)
WEIGHT = ref("conv.weight", Role.WEIGHT, (64, 3))
MOMENT = ref("state.0.exp_avg", Role.FIRST_MOMENT, container="optimizer", param="model.conv.weight")
BAD_MEAN = finding(Code.MEAN_NOT_FINITE, MEAN, pos_inf=64, bad_channels=tuple(range(64)))
BAD_WEIGHT = finding(Code.WEIGHT_NOT_FINITE, WEIGHT, nan=2)
BAD_MOMENT = finding(Code.FIRST_MOMENT_NOT_FINITE, MOMENT, nan=1)
TRUNCATED = Finding(code=Code.TRUNCATED, severity=Severity.ERROR, message="It is cut off.", remedy="Use another.")


def diagnosis(*findings, refs=(MEAN, VAR, WEIGHT, MOMENT), **more):
    fields = {"source": "run/x.pth", "format": "torch zip", "nbytes": 21_300_000, "scanned": 20_000_000}
    return Diagnosis(**fields | {"main": "model", "refs": refs, "findings": findings} | more)


def lines(*findings, **more):
    return diagnosis_text(diagnosis(*findings, **more)).splitlines()


def test_the_headline_names_file_verdict_format_size_and_tensors():
    assert headline(diagnosis(BAD_MEAN)) == "run/x.pth: FIXABLE (torch zip, 21.3 MB, 4 tensors)"


def test_the_headline_of_an_unreadable_file_has_no_figures():
    assert headline(diagnosis(TRUNCATED, refs=())) == "run/x.pth: UNCHECKED"


def test_a_healthy_report_says_so_and_proposes_nothing():
    found = lines()
    assert found[-1] == "  Verdict    healthy"
    assert not any("Next" in line for line in found)


def test_a_finding_shows_code_title_place_counts_and_channels():
    found = lines(BAD_MEAN)
    assert found[2] == "  ERROR TM101 running mean not finite   in 1 tensor   fixable"
    assert found[3] == "    model / bn.running_mean"
    assert found[4] == "      BatchNorm running_mean   float32 [64]   NaN 0 / 64   Inf 64 / 64   channels: all 64"


def test_a_finding_says_why_it_matters_and_what_to_do():
    text = " ".join(diagnosis_text(diagnosis(BAD_MEAN)).split())
    assert f"Why {BAD_MEAN.message}" in text
    assert f"Do {BAD_MEAN.remedy}" in text


def test_the_sentences_of_a_code_are_printed_once_for_all_its_tensors():
    other = ref("bn2.running_mean", Role.RUNNING_MEAN)
    found = lines(BAD_MEAN, dataclasses.replace(BAD_MEAN, ref=other))
    assert sum(line.lstrip().startswith("Why ") for line in found) == 1
    assert "in 2 tensors" in found[2]


def test_only_the_first_six_tensors_of_a_code_are_shown():
    many = [dataclasses.replace(BAD_MEAN, ref=ref(f"bn{n}.running_mean", Role.RUNNING_MEAN)) for n in range(9)]
    found = lines(*many)
    assert sum("/ bn" in line for line in found) == 6
    assert "    and 3 more; --format json lists all" in found


def test_a_weight_is_not_called_fixable():
    (heading,) = [line for line in lines(BAD_WEIGHT) if "TM201" in line]
    assert "fixable" not in heading


def test_a_moment_names_the_parameter_that_it_belongs_to():
    assert any(line.endswith("of model.conv.weight") for line in lines(BAD_MOMENT))


def test_a_statistic_of_an_averaged_copy_is_called_so():
    averaged = dataclasses.replace(BAD_MEAN, ref=dataclasses.replace(MEAN, averaged=True))
    assert any("averaged copy of a BatchNorm running_mean" in line for line in lines(averaged))


def test_a_negative_variance_shows_how_many_and_the_smallest():
    bad = finding(Code.VARIANCE_NEGATIVE, VAR, negative=1, minimum=-0.25, bad_channels=(5,))
    assert any("negative 1 / 64   smallest -0.25   channels: 5 of 64" in line for line in lines(bad))


def test_a_variance_with_nan_too_still_shows_how_many_are_negative():
    bad = finding(Code.VARIANCE_NEGATIVE, VAR, nan=1, negative=1, minimum=-0.25, bad_channels=(1, 5))
    assert any("negative 1 / 64" in line for line in lines(bad))


def test_a_statistic_that_could_not_be_read_is_not_called_fixable():
    unread = Finding(code=Code.OUT_OF_BOUNDS, severity=Severity.ERROR, message="Not read.", remedy="None.", ref=MEAN)
    (heading,) = [line for line in lines(unread) if "TM903" in line]
    assert "fixable" not in heading


def test_the_figures_start_with_the_model_s_own_container():
    (seen,) = [line for line in lines(refs=(MOMENT, MEAN, VAR)) if "Seen" in line]
    assert seen == "  Seen       2 entries in model, 1 entry in optimizer; 20.0 MB of numbers looked at"


def test_containers_beyond_three_are_summed_up():
    refs = tuple(ref("w", Role.WEIGHT, container=f"m{n}") for n in range(5))
    (seen,) = [line for line in lines(refs=refs) if "Seen" in line]
    assert "and 2 more containers" in seen


def test_one_container_beyond_three_is_in_the_singular():
    refs = tuple(ref("w", Role.WEIGHT, container=f"m{n}") for n in range(4))
    (seen,) = [line for line in lines(refs=refs) if "Seen" in line]
    assert "1 more containers" not in seen


def test_the_root_is_called_the_root():
    (seen,) = [line for line in lines(refs=(ref("w", Role.WEIGHT, container=""),), main="") if "Seen" in line]
    assert "1 entry in the root" in seen


def test_the_damage_is_summed_up_with_what_each_kind_needs():
    (corrupted,) = [line for line in lines(BAD_MEAN, BAD_WEIGHT, BAD_MOMENT) if "Corrupted" in line]
    assert corrupted == (
        "  Corrupted  1 BatchNorm statistic (fixable), 1 weight or bias (need a donor), 1 optimizer tensor"
    )


def test_skipped_tensors_are_counted_with_the_first_reason():
    (skipped,) = [line for line in lines(skipped=(Skipped(ref=WEIGHT, reason="a meta tensor"),)) if "Skipped" in line]
    assert skipped == "  Skipped    1 tensor: a meta tensor"


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ((), "healthy"),
        ((finding(Code.METADATA_NOT_FINITE, ref("l", Role.METADATA), nan=1),), "healthy, with 1 remark"),
        ((BAD_MEAN,), "damaged, and repairable from this file alone"),
        ((TRUNCATED,), "not fully checked"),
    ],
)
def test_the_verdict_is_one_plain_line(findings, verdict):
    assert f"  Verdict    {verdict}" in lines(*findings)


def test_a_file_of_which_nothing_was_read_is_not_checked():
    assert lines(TRUNCATED, refs=())[-1] == "  Verdict    not checked"


def test_the_last_line_is_the_command_to_type_next():
    assert lines(BAD_MEAN)[-1] == "  Next       torchmend fix run/x.pth"


def test_sentences_are_wrapped_to_the_width():
    wrapped = [line for line in lines(BAD_MEAN, BAD_WEIGHT) if line.startswith(("    Why", "    Do", " " * 9))]
    assert max(map(len, wrapped)) <= 100


def test_a_report_has_no_colour_of_its_own_and_no_trailing_space():
    found = lines(BAD_MEAN, BAD_WEIGHT, BAD_MOMENT)
    assert not any("\x1b" in line or line != line.rstrip() for line in found)


def test_paint_is_asked_to_colour_the_verdict_and_the_severity():
    painted = {}
    diagnosis_text(diagnosis(BAD_MEAN), lambda text, style: painted.setdefault(text, style) and text)
    assert painted["FIXABLE"] == "yellow"
    assert painted["ERROR TM101"] == "red"


# Findings about numbers, notes, and findings with figures of their own


def about_number(code, value, *, severity=Severity.ERROR, path=("extra", "scaler", "scale"), place=100, detail=""):
    text = TEXTS[code]
    return Finding(
        code=code,
        severity=severity,
        message=text.consequence,
        remedy=text.remedy,
        scalar=Scalar(path=path, value=value, place=place),
        detail=detail,
    )


BAD_SCALE = about_number(Code.SCALER_BROKEN, 0.0, detail="scale 0")
BAD_RATE = about_number(Code.LEARNING_RATE, float("nan"), path=("optimizer", "param_groups", 0, "lr"), detail="nan")
BEST = about_number(Code.BEST_METRIC, float("nan"), path=("best",), severity=Severity.WARNING, detail="nan")


def noted(code, tensor, detail="", severity=Severity.NOTE, **counts):
    return dataclasses.replace(finding(code, tensor, **counts), severity=severity, detail=detail)


def test_a_number_is_shown_with_its_path_and_value():
    found = lines(BAD_SCALE)
    at = found.index("  ERROR TM402 GradScaler broken   in 1 number   fixable")
    assert found[at + 1] == "    extra.scaler.scale = 0.0"
    assert found[at + 2].startswith("    Why ")


def test_a_number_that_needs_an_option_says_so():
    found = lines(BAD_RATE)
    assert "  ERROR TM403 learning rate not finite   in 1 number   fixable with --metadata" in found
    assert found[-1] == "  Next       torchmend fix run/x.pth --metadata"


def test_a_number_that_cannot_be_patched_is_not_called_fixable():
    found = lines(about_number(Code.SCALER_BROKEN, 0.0, place=None))
    assert "  ERROR TM402 GradScaler broken   in 1 number" in found
    assert found[-1] == "  Verdict    damaged, in a place that is not patched"


def test_numbers_beside_the_model_are_in_the_figures_where_some_are_damaged():
    assert any(line.endswith("0 optimizer tensors, 2 numbers beside the model") for line in lines(BAD_SCALE, BAD_RATE))
    assert not any("beside the model" in line for line in lines(BAD_MEAN) if "Corrupted" in line)


def test_a_detail_stands_on_the_line_under_type_and_shape():
    outlier = noted(Code.STATISTIC_OUTLIER, VAR, "channel 2: 1e+12", Severity.WARNING, absmax=1e12)
    found = lines(outlier)
    at = found.index("    model / bn.running_var")
    assert found[at + 1 : at + 3] == ["      BatchNorm running_var   float32 [64]", "      channel 2: 1e+12"]


def test_a_finite_tensor_is_not_said_to_have_no_nan():
    constant = noted(Code.WEIGHT_CONSTANT, WEIGHT, "every element is 1", Severity.WARNING, absmax=1.0)
    assert not any("NaN 0" in line for line in lines(constant))


def test_a_detail_about_the_file_itself_is_shown():
    wrong = dataclasses.replace(TRUNCATED, code=Code.WRONG_CHECKSUM, detail="archive/data/3")
    found = lines(wrong)
    assert found[found.index("  ERROR TM905 checksum wrong") + 1] == "      archive/data/3"


def test_errors_stand_before_warnings_and_warnings_before_notes():
    note = noted(Code.STATISTIC_BEYOND_HALF, VAR, "70000")
    found = [
        line.split()[0] for line in lines(note, BEST, BAD_MEAN) if line.startswith(("  ERROR", "  WARN", "  NOTE"))
    ]
    assert found == ["ERROR", "WARNING", "NOTE"]


def test_a_note_takes_one_line_for_a_tensor():
    found = lines(noted(Code.STATISTIC_BEYOND_HALF, VAR, "largest 70000", absmax=70000.0))
    at = found.index("  NOTE TM109 statistic beyond float16   in 1 tensor")
    assert found[at + 1] == "    model / bn.running_var   largest 70000"
    assert found[at + 2].startswith("    Why ")


def test_a_note_without_figures_of_its_own_shows_what_the_tensor_is():
    found = lines(finding(Code.METADATA_NOT_FINITE, ref("losses", Role.METADATA, container=""), nan=2))
    assert "    losses   metadata   float32 [64]   NaN 2 / 64   Inf 0 / 64" in found


def test_a_note_shows_three_tensors_at_most():
    notes = [noted(Code.STATISTIC_BEYOND_HALF, ref(f"bn{n}.running_var", Role.RUNNING_VAR), "big") for n in range(5)]
    found = lines(*notes)
    assert sum(line.startswith("    model / bn") for line in found) == 3
    assert "    and 2 more; --format json lists all" in found


def test_a_weight_with_a_sound_copy_is_fixable_and_not_sent_to_a_donor():
    found = lines(BAD_WEIGHT, noted(Code.LIVE_NOT_FINITE, WEIGHT, "healthy copy: ema.conv.weight"))
    assert "  ERROR TM201 weight not finite   in 1 tensor   fixable" in found
    assert not any("--donor" in line for line in found)
    assert any("1 weight or bias (fixable)" in line for line in found)


def test_weights_with_and_without_a_sound_copy_are_told_apart():
    other = finding(Code.WEIGHT_NOT_FINITE, ref("head.weight", Role.WEIGHT), nan=1)
    found = lines(BAD_WEIGHT, other, noted(Code.LIVE_NOT_FINITE, WEIGHT, "healthy copy: ema.conv.weight"))
    assert [line for line in found if "TM201" in line] == [
        "  ERROR TM201 weight not finite   in 1 tensor   fixable",
        "  ERROR TM201 weight not finite   in 1 tensor",
    ]
    assert any("2 weights and biases (1 need a donor)" in line for line in found)


def test_a_moment_is_called_the_optimizer_s():
    assert any(line.startswith("      optimizer's first moment   float32 [64]") for line in lines(BAD_MOMENT))


def test_a_file_that_is_wrong_in_itself_is_not_to_be_trusted():
    found = lines(dataclasses.replace(TRUNCATED, code=Code.OVERLAPPING))
    assert found[0].startswith("run/x.pth: DO NOT TRUST (")
    assert found[-1].startswith("  Verdict    do not trust this file")


@pytest.mark.parametrize("code", list(Code))
@pytest.mark.parametrize("severity", list(Severity))
def test_every_code_can_be_reported_with_every_severity(code, severity):
    about_tensor = dataclasses.replace(finding(code, MEAN, nan=1), severity=severity)
    assert any(f"{severity.name} {code.value} {TEXTS[code].title}" in line for line in lines(about_tensor))
