"""What a file's structure and its pickle's calls give."""

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.formats.contents import Oddity
from torchmend.rules.files import call_severity, judge_calls, judge_structure


@pytest.mark.parametrize(
    "name",
    [
        "posix.system",
        "nt.system",
        "os.popen",
        "subprocess.Popen",
        "builtins.eval",
        "__builtin__.execfile",
        "builtins.__import__",
        "builtins.open",
        "importlib.import_module",
        "socket.create_connection",
        "torch.load",
        "torch.hub.load",
        "torch.utils.cpp_extension.load_inline",
        "numpy.f2py.compile",
        "pickle.loads",
        "types.CodeType",
    ],
)
def test_functions_that_run_programs_open_files_or_make_code_are_errors(name):
    assert call_severity(name) is Severity.ERROR


@pytest.mark.parametrize("name", ["builtins.getattr", "functools.partial", "operator.attrgetter", "builtins.print"])
def test_functions_that_prepare_a_call_are_warnings(name):
    assert call_severity(name) is Severity.WARNING


@pytest.mark.parametrize("name", ["transformers.trainer_utils.IntervalStrategy", "my_project.make", "osutils.x"])
def test_functions_of_unknown_packages_are_notes(name):
    assert call_severity(name) is Severity.NOTE


@pytest.mark.parametrize(
    "name",
    [
        "torch._utils._rebuild_tensor_v2",
        "torch.Size",
        "torch.device",
        "collections.OrderedDict",
        "numpy._core.multiarray.scalar",
        "_codecs.encode",
        "copyreg._reconstructor",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "builtins.set",
        "datetime.datetime",
        "types.SimpleNamespace",
    ],
)
def test_what_honest_checkpoints_call_gives_nothing(name):
    assert call_severity(name) is None


def test_the_finding_says_what_the_pickle_wanted_to_call():
    (finding,) = judge_calls({"posix.system": "posix.system('rm -rf ~')", "torch.Size": "torch.Size(...)"})
    assert (finding.code, finding.severity) == (Code.RUNS_CODE, Severity.ERROR)
    assert "posix.system('rm -rf ~')" in finding.detail


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


def test_a_file_without_oddities_and_calls_gives_nothing():
    assert [*judge_structure(()), *judge_calls({})] == []
