"""How bad the names are that a pickle wanted to import."""

import pytest

from torchmend.facts.codes import Code, Severity
from torchmend.formats.contents import Import
from torchmend.rules import globals as rules
from torchmend.rules.globals import MOST_FINDINGS, global_severity, judge_imports


def severity(dotted):
    """Split at the last dot, as pickles of functions do."""
    module, _, name = dotted.rpartition(".")
    return global_severity(module, name)


def wanted(dotted, call="", **kwargs):
    module, _, name = dotted.rpartition(".")
    return Import(module=module, name=name, call=call, **kwargs)


@pytest.mark.parametrize(
    "dotted",
    [
        "posix.system",
        "nt.system",
        "os.popen",
        "os.path.join",
        "subprocess.Popen",
        "_posixsubprocess.fork_exec",
        "commands.getoutput",
        "builtins.eval",
        "__builtin__.execfile",
        "builtins.__import__",
        "builtins.open",
        "importlib.import_module",
        "_frozen_importlib._gcd_import",
        "socket.create_connection",
        "torch.load",
        "torch.save",
        "torch.hub.load",
        "torch.utils.cpp_extension.load_inline",
        "torch.utils.collect_env.run",
        "torch.utils.bottleneck.__main__.run_cprofile",
        "torch.jit.unsupported_tensor_ops.execWrapper",
        "torch.serialization.add_safe_globals",
        "torch._dynamo.guards.GuardBuilder",
        "torch.fx.graph_module.reduce_graph_module",
        "numpy.f2py.crackfortran.getlincoef",
        "numpy.testing._private.utils.runstring",
        "pickle.loads",
        "types.CodeType",
        "six.moves.builtins.eval",
        "pip._vendor.six.moves.builtins.eval",
        "uuid._get_command_stdout",
        "argparse.FileType",
    ],
)
def test_what_runs_programs_opens_files_or_makes_code_is_an_error(dotted):
    assert severity(dotted) is Severity.ERROR


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("torch", "os.system"),
        ("torch", "serialization.os.system"),
        ("torch", "os"),
        ("torch.serialization", "_get_layout.__globals__"),
        ("random", "_os.system"),
        ("random", "_os"),
        ("collections", "_sys.modules"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("numpy", "ma.core.builtins.eval"),
        ("numpy", "f2py.capi_maps.load_f2cmap_file"),
        ("pathlib", "Path.unlink"),
        ("builtins", "object.__subclasses__"),
        ("my_project", "helpers.subprocess.run"),
        ("torch.nn", "Module.__dict__"),
    ],
)
def test_a_walk_over_attributes_to_what_is_dangerous_is_an_error(module, name):
    assert global_severity(module, name) is Severity.ERROR


@pytest.mark.parametrize(
    "dotted",
    [
        "builtins.getattr",
        "builtins.print",
        "functools.partial",
        "operator.attrgetter",
        "torch.storage._load_from_bytes",
        "copyreg.extension 7",
        "copyreg.add_extension",
        "__main__.Config",
        "my_project.make",
        "osutils.x",
        "transformers.dynamic_module_utils.get_class_from_dynamic_module",
        "transformers.training_args.default_logdir",
    ],
)
def test_what_is_not_known_to_be_harmless_is_a_warning(dotted):
    assert severity(dotted) is Severity.WARNING


@pytest.mark.parametrize(
    "dotted",
    [
        "torch._utils._rebuild_tensor_v2",
        "torch.Size",
        "torch.device",
        "torch.nn.modules.linear.Linear",
        "torch.serialization._get_layout",
        "torch.distributed.checkpoint.metadata.Metadata",
        "torch.distributed.checkpoint.filesystem._StorageInfo",
        "__torch__.model.Net",
        "collections.OrderedDict",
        "numpy._core.multiarray.scalar",
        "_codecs.encode",
        "copyreg._reconstructor",
        "copy_reg._reconstructor",
        "argparse.Namespace",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "builtins.set",
        "__builtin__.set",
        "datetime.datetime",
        "types.SimpleNamespace",
        "typing.Any",
        "re._compile",
        "transformers.training_args.TrainingArguments",
        "transformers.trainer_utils.IntervalStrategy",
        "accelerate.utils.dataclasses.DistributedType",
        "accelerate.state.PartialState",
        "omegaconf.dictconfig.DictConfig",
        "lightning.fabric.utilities.data.AttributeDict",
        "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
    ],
)
def test_what_honest_checkpoints_import_gives_nothing(dotted):
    assert severity(dotted) is None


def test_a_dangerous_name_is_an_error_with_its_call_and_where_its_opcode_stands():
    (finding,) = judge_imports(
        [wanted("posix.system", "posix.system('rm -rf ~')", at=1234, place=1300), wanted("torch.Size")]
    )
    assert (finding.code, finding.severity) == (Code.DANGEROUS_GLOBAL, Severity.ERROR)
    assert "call posix.system('rm -rf ~')" in finding.detail
    assert "byte 1,234 of the pickle, byte 1,300 of the file" in finding.detail


def test_a_dangerous_name_that_is_not_called_is_an_error_too():
    (finding,) = judge_imports([wanted("posix.system", at=7)])
    assert finding.detail == "it wanted to import posix.system; the name stands at byte 7 of the pickle"


def test_unknown_names_are_one_warning_a_package():
    imports = [wanted("ours.a.A"), wanted("theirs.B"), *(wanted(f"ours.b.C{i}") for i in range(9))]
    ours, theirs = judge_imports(imports)
    assert (ours.code, ours.severity) == (Code.UNKNOWN_GLOBAL, Severity.WARNING)
    assert ours.detail == "ours.a.A, ours.b.C0, ours.b.C1 and 7 more of ours"
    assert theirs.detail == "theirs.B"


@pytest.mark.parametrize("pattern", ["os.f{}", "package{}.f"])
def test_very_many_names_are_counted_and_not_listed(pattern):
    findings = [*judge_imports([wanted(pattern.format(i)) for i in range(1000)])]
    assert len(findings) == MOST_FINDINGS
    assert findings[-1].detail == f"and {1001 - MOST_FINDINGS:,} more of this kind"


@pytest.mark.parametrize("dotted", ["os.a\nb", "ours.\x1b[2J", "ours.\ud800", "ours.\u202eevil", f"ours.{'x' * 999}"])
def test_a_name_reaches_the_report_on_one_short_line_without_escapes(dotted):
    (finding,) = judge_imports([wanted(dotted)])
    assert finding.detail.isprintable()
    assert len(finding.detail) < 300


def test_a_file_that_imports_nothing_gives_nothing():
    assert [*judge_imports([])] == []


def test_no_name_is_in_two_lists_by_mistake():
    assert not {name for name in rules.HARMLESS_BUILTINS if name in rules.DANGEROUS_BUILTINS}
    assert not rules.HARMLESS & rules.DANGEROUS
