"""`torchmend diagnose`: what it prints for whom, and what it returns."""

import json
import zipfile

import pytest

import checkpoints
from checkpoints import torchmend
from torchmend.cli import diagnose as command
from torchmend.facts.errors import SourceChangedError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Stand in a folder with a healthy, a damaged, and a truncated checkpoint."""
    healthy = checkpoints.save(checkpoints.training_checkpoint(), tmp_path / "healthy.pth")
    checkpoints.save(checkpoints.infinite_mean(checkpoints.training_checkpoint()), tmp_path / "damaged.pth")
    (tmp_path / "truncated.pth").write_bytes(healthy.read_bytes()[:200_000])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def weights(folder):
    """Add a checkpoint with a damaged mean and a damaged weight."""
    damaged = checkpoints.nan_weight(checkpoints.infinite_mean(checkpoints.training_checkpoint()))
    checkpoints.save(damaged, folder / "weights.pth")
    return folder


def test_a_healthy_file_exits_0(folder):
    outcome = torchmend("diagnose", "healthy.pth")
    assert (outcome.rc, outcome.stderr) == (0, "")
    assert "  Verdict    healthy\n" in outcome.stdout


def test_a_damaged_file_exits_1_and_names_tensor_and_next_command(folder):
    outcome = torchmend("diagnose", "damaged.pth")
    assert outcome.rc == 1
    assert f"model_state_dict / {checkpoints.MEAN}" in outcome.stdout
    assert outcome.stdout.endswith("  Next       torchmend fix damaged.pth\n")


BROKEN = {
    "empty": (b"", "TM901"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(64), "TM901"),
    "text": (b"iteration,loss\n1,0.5\n", "TM901"),
    "one byte": (b"P", "TM901"),
    "zip magic only": (b"PK\x03\x04", "TM902"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_checkpoint_exits_2_under_its_code(tmp_path, kind):
    content, code = BROKEN[kind]
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    outcome = torchmend("diagnose", path)
    assert outcome.rc == 2
    assert f"ERROR {code}" in outcome.stdout


def test_a_truncated_file_exits_2_and_says_how_it_came_about(folder):
    outcome = torchmend("diagnose", "truncated.pth")
    assert outcome.rc == 2
    assert "ERROR TM902 truncated" in outcome.stdout
    assert "full disk" in outcome.stdout


def test_a_missing_file_exits_2_and_says_so(tmp_path):
    outcome = torchmend("diagnose", tmp_path / "missing.pth")
    assert outcome.rc == 2
    assert "No such file." in outcome.stdout


def test_an_unreadable_file_does_not_keep_the_others_from_being_reported(folder):
    outcome = torchmend("diagnose", "healthy.pth", "truncated.pth", "damaged.pth")
    assert outcome.rc == 2
    for headline in ("healthy.pth: HEALTHY", "truncated.pth: UNCHECKED", "damaged.pth: FIXABLE"):
        assert headline in outcome.stdout
    assert outcome.stdout.endswith("\n1 of 3 files are healthy.\n")


def test_a_folder_is_searched_for_checkpoints(folder):
    outcome = torchmend("diagnose", folder, "--quiet")
    assert [line.split(": ")[1].split(" (")[0] for line in outcome.stdout.splitlines()] == ["FIXABLE", "UNCHECKED"]


def test_folders_below_a_folder_are_searched_too(folder):
    (folder / "deep" / "deeper").mkdir(parents=True)
    (folder / "damaged.pth").rename(folder / "deep" / "deeper" / "damaged.pth")
    assert "deep/deeper/damaged.pth: FIXABLE" in torchmend("diagnose", "deep").stdout


def test_a_folder_without_checkpoints_exits_2_and_says_what_was_looked_for(tmp_path):
    outcome = torchmend("diagnose", tmp_path)
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith(f"torchmend: No checkpoint files in {tmp_path}.")
    assert ".safetensors" in outcome.stderr


def test_a_folder_without_checkpoints_does_not_keep_the_rest_from_being_reported(folder):
    (folder / "nothing").mkdir()
    outcome = torchmend("diagnose", "nothing", "damaged.pth")
    assert outcome.rc == 2
    assert "damaged.pth: FIXABLE" in outcome.stdout


@pytest.mark.parametrize(
    ("name", "level", "rc"),
    [
        ("damaged.pth", "error", 1),
        ("damaged.pth", "warning", 1),
        ("damaged.pth", "note", 1),
        ("damaged.pth", "never", 0),
        ("healthy.pth", "note", 0),
        ("noted.pth", "error", 0),
        ("noted.pth", "warning", 0),
        ("noted.pth", "note", 1),
        ("noted.pth", "never", 0),
        ("truncated.pth", "never", 2),
    ],
)
def test_fail_on_decides_from_which_severity_on_it_exits_1(folder, name, level, rc):
    noted = checkpoints.training_checkpoint()
    noted["history"] = {"psnr": checkpoints.torch.tensor([27.0, float("nan")])}
    checkpoints.save(noted, folder / "noted.pth")
    assert torchmend("diagnose", name, "--fail-on", level).rc == rc


def test_an_unknown_severity_exits_2_and_lists_the_known(folder):
    outcome = torchmend("diagnose", "healthy.pth", "--fail-on", "fatal")
    assert (outcome.rc, outcome.stdout) == (2, "")
    for level in ("error", "warning", "note", "never"):
        assert level in outcome.stderr


def test_quiet_prints_one_line_for_each_file_that_is_not_healthy(folder):
    outcome = torchmend("diagnose", "--quiet", "healthy.pth", "damaged.pth", "truncated.pth")
    assert [line.split(" (")[0] for line in outcome.stdout.splitlines()] == [
        "damaged.pth: FIXABLE",
        "truncated.pth: UNCHECKED",
    ]


def test_quiet_prints_nothing_for_a_healthy_file(folder):
    outcome = torchmend("diagnose", "-q", "healthy.pth")
    assert (outcome.rc, outcome.stdout, outcome.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "codes"),
    [
        ((), ["TM101", "TM201"]),
        (("--select", "TM1"), ["TM101"]),
        (("--select", "TM201"), ["TM201"]),
        (("--select", "TM1", "--select", "TM2"), ["TM101", "TM201"]),
        (("--ignore", "TM1"), ["TM201"]),
        (("--select", "TM1", "--ignore", "TM101"), []),
    ],
)
def test_prefixes_choose_what_is_reported(weights, options, codes):
    data = json.loads(torchmend("diagnose", "weights.pth", "--format", "json", *options).stdout)
    assert [finding["code"] for finding in data["results"][0]["findings"]] == codes


@pytest.mark.parametrize(
    ("options", "rc"), [(("--select", "TM3"), 0), (("--ignore", "TM"), 0), (("--select", "TM2"), 1)]
)
def test_findings_that_were_not_asked_for_do_not_fail_the_command(weights, options, rc):
    assert torchmend("diagnose", "weights.pth", *options).rc == rc


@pytest.mark.parametrize("options", [("--select", "TM3"), ("--ignore", "TM1", "--ignore", "TM2")])
def test_a_damaged_file_is_not_called_healthy_because_its_findings_were_not_asked_for(weights, options):
    assert "HEALTHY" not in torchmend("diagnose", "weights.pth", *options).stdout


def test_ignoring_weights_does_not_promise_a_repair_that_will_be_refused(weights):
    outcome = torchmend("diagnose", "weights.pth", "--ignore", "TM2")
    assert not outcome.stdout.endswith("torchmend fix weights.pth\n")


def test_ignoring_does_not_hide_that_a_file_was_not_checked(folder):
    assert torchmend("diagnose", "truncated.pth", "--ignore", "TM9").rc == 2


@pytest.mark.parametrize("option", ["--select", "--ignore"])
@pytest.mark.parametrize("prefix", ["XX", "TM8", "TM1011"])
def test_a_prefix_that_fits_no_code_exits_2_and_lists_the_codes(folder, option, prefix):
    outcome = torchmend("diagnose", "healthy.pth", option, prefix)
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert f"No code starts with {prefix!r}" in outcome.stderr
    assert "TM101, TM102" in outcome.stderr


def test_an_unknown_option_exits_2_and_is_named(folder):
    outcome = torchmend("diagnose", "healthy.pth", "--wrong")
    assert (outcome.rc, outcome.stdout) == (2, "")
    assert "No such option: --wrong" in outcome.stderr


def test_no_path_at_all_exits_2():
    assert torchmend("diagnose").rc == 2


def test_json_of_a_folder_without_checkpoints_is_still_json(tmp_path):
    outcome = torchmend("diagnose", tmp_path, "--format", "json")
    assert outcome.rc == 2
    assert json.loads(outcome.stdout)["results"] == []


def test_a_file_that_changes_meanwhile_exits_2_and_leaves_the_rest_reported(folder, monkeypatch):
    real = command.diagnose_file

    def changing(path, *arguments, **options):
        if path.name == "healthy.pth":
            raise SourceChangedError("healthy.pth changed while it was read.")
        return real(path, *arguments, **options)

    monkeypatch.setattr(command, "diagnose_file", changing)
    outcome = torchmend("diagnose", "healthy.pth", "damaged.pth")
    assert outcome.rc == 2
    assert "healthy.pth changed" in outcome.stderr
    assert "damaged.pth: FIXABLE" in outcome.stdout


def test_a_file_that_changes_meanwhile_does_not_keep_the_rest_of_its_folder_from_being_reported(folder, monkeypatch):
    real = command.diagnose_file

    def changing(path, *arguments, **options):
        if path.name == "damaged.pth":
            raise SourceChangedError("damaged.pth changed while it was read.")
        return real(path, *arguments, **options)

    monkeypatch.setattr(command, "diagnose_file", changing)
    outcome = torchmend("diagnose", ".")
    assert outcome.rc == 2
    assert "healthy.pth: HEALTHY" in outcome.stdout


MACHINE_FORMATS = ["json", "sarif", "markdown"]


@pytest.mark.parametrize("form", MACHINE_FORMATS)
@pytest.mark.parametrize(
    ("paths", "rc"), [(["healthy.pth"], 0), (["healthy.pth", "damaged.pth"], 1), (["."], 2), (["nowhere.pth"], 2)]
)
def test_the_exit_code_does_not_depend_on_the_format(folder, form, paths, rc):
    assert torchmend("diagnose", *paths, "--format", form).rc == rc


def test_a_folder_gives_one_sarif_log_with_one_run(folder):
    log = json.loads(torchmend("diagnose", ".", "--format", "sarif").stdout)
    (run,) = log["runs"]
    assert [each["location"]["uri"] for each in run["artifacts"]] == ["damaged.pth", "healthy.pth", "truncated.pth"]
    assert [each["ruleId"] for each in run["results"]] == ["TM101", "TM902"]


def test_a_folder_gives_one_markdown_report(folder):
    text = torchmend("diagnose", ".", "--format", "markdown").stdout
    assert text.startswith("## Checkpoints: of 3 files, 1 damaged and 1 could not be checked\n")
    assert text.endswith("\nNext: `torchmend fix damaged.pth`\n")
    assert sum(line.startswith("## ") for line in text.splitlines()) == 1


def test_a_folder_gives_one_json_report(folder):
    data = json.loads(torchmend("diagnose", ".", "--format", "json").stdout)
    assert [each["verdict"] for each in data["results"]] == ["fixable", "healthy", "unchecked"]


def test_sarif_of_a_folder_without_checkpoints_says_that_the_run_was_not_successful(tmp_path):
    outcome = torchmend("diagnose", tmp_path, "--format", "sarif")
    (run,) = json.loads(outcome.stdout)["runs"]
    (invocation,) = run["invocations"]
    assert (outcome.rc, run["results"], invocation["executionSuccessful"]) == (2, [], False)
    assert "No checkpoint files" in invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_markdown_of_a_folder_without_checkpoints_says_that_nothing_was_checked(tmp_path):
    outcome = torchmend("diagnose", tmp_path, "--format", "markdown")
    assert outcome.rc == 2
    assert outcome.stdout.startswith("## Checkpoints: nothing was checked\n\n**Not checked:** No checkpoint files")


@pytest.mark.parametrize("form", ["sarif", "markdown"])
def test_findings_that_were_not_asked_for_are_left_out_of_documents(weights, form):
    text = torchmend("diagnose", "weights.pth", "--select", "TM2", "--format", form).stdout
    assert "model_state_dict / refinement_ffc.scales.0.ffc.local_conv.0.weight" in text
    assert checkpoints.MEAN not in text


def flipped(path):
    """Change one byte of a record of tensor data, and mend no checksum."""
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = next(each for each in archive.infolist() if each.filename.endswith("data/0"))
    names = int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
    extra = int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    data[info.header_offset + 30 + names + extra] ^= 1
    path.write_bytes(data)


def test_checksums_are_compared_on_request_and_a_wrong_one_is_not_to_be_trusted(folder):
    flipped(folder / "healthy.pth")
    outcome = torchmend("diagnose", "healthy.pth", "--verify-crc")
    assert outcome.rc == 1
    assert "healthy.pth: DO NOT TRUST" in outcome.stdout
    assert "ERROR TM905 checksum wrong" in outcome.stdout


def test_checksums_are_not_compared_without_being_asked_for(folder):
    flipped(folder / "healthy.pth")
    assert torchmend("diagnose", "healthy.pth").rc == 0


def test_right_checksums_are_no_finding(folder):
    outcome = torchmend("diagnose", "healthy.pth", "--verify-crc")
    assert (outcome.rc, outcome.stdout) == (0, torchmend("diagnose", "healthy.pth").stdout)


def test_diagnosing_writes_nothing(folder):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    torchmend("diagnose", folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_name_with_spaces_is_quoted_in_the_next_command(folder):
    (folder / "damaged.pth").rename(folder / "my best.pth")
    assert torchmend("diagnose", "my best.pth").stdout.endswith("torchmend fix 'my best.pth'\n")


def test_output_that_is_no_terminal_has_no_colours(folder):
    assert "\x1b" not in torchmend("diagnose", "damaged.pth").stdout
