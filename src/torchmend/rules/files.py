"""Rules on a file's own structure, and on what its pickle would do to a program that unpickles it."""

from collections.abc import Iterator, Mapping

from torchmend.facts.codes import Code, Severity
from torchmend.facts.findings import Finding
from torchmend.formats.contents import Oddity
from torchmend.rules.evidence import finding

_SEVERITIES = {Code.UNREFERENCED: Severity.NOTE}

_DANGEROUS_MODULES = {
    "os", "posix", "nt", "subprocess", "_posixsubprocess", "sys", "shutil", "runpy", "importlib", "imp", "pkgutil",
    "pty", "socket", "_socket", "ssl", "ctypes", "_ctypes", "code", "codeop", "webbrowser", "multiprocessing",
    "asyncio", "signal", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "http",
    "urllib", "urllib2", "requests", "httpx", "ftplib", "smtplib", "telnetlib", "xmlrpc", "tempfile", "timeit",
    "cProfile", "profile", "pdb", "bdb", "trace", "doctest", "zipfile", "tarfile", "pip", "ensurepip", "venv",
    "commands", "fileinput", "ast", "inspect", "_thread", "threading",
}  # fmt: skip
"""Top-level modules whose functions run programs, open files, reach the network or make code."""

_DANGEROUS = {
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in ("eval", "exec", "execfile", "compile", "open", "file", "__import__", "setattr", "delattr", "globals",
                 "locals", "vars", "input", "raw_input", "breakpoint", "apply", "map", "filter")
} | {"torch.load", "torch.jit.load", "torch.ops.load_library", "torch.serialization.load", "torch.compile",
     "numpy.load", "numpy.fromfile", "numpy.memmap", "numpy.loadtxt", "numpy.genfromtxt", "numpy.save",
     "functools.reduce", "io.open", "io.FileIO", "_io.open", "_io.FileIO", "types.FunctionType", "types.CodeType",
     "types.MethodType"}  # fmt: skip
_DANGEROUS_PREFIXES = ("torch.hub.", "torch.utils.cpp_extension.", "torch.package.", "torch.multiprocessing.",
                       "torch.distributed.run", "torch._inductor.", "torch._dynamo.", "numpy.f2py.", "numpy.testing.",
                       "numpy.distutils.", "numpy.lib.npyio.", "torch.testing.")  # fmt: skip
_INDIRECT = {"builtins.getattr", "__builtin__.getattr", "operator.attrgetter", "operator.methodcaller",
             "operator.itemgetter", "functools.partial", "_operator.attrgetter", "_operator.methodcaller",
             "torch.storage._load_from_bytes"}  # fmt: skip
"""What fetches or prepares a call: pickled methods use it honestly, and attacks to hide behind."""

_HARMLESS_MODULES = {"torch", "numpy", "collections", "_codecs", "copyreg", "copy_reg", "datetime", "decimal",
                     "fractions", "pathlib", "argparse", "uuid", "random", "enum", "ml_dtypes"}  # fmt: skip
_HARMLESS_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "bytes", "bytearray", "complex", "slice", "range",
                      "xrange", "int", "long", "float", "str", "unicode", "bool", "object", "type"}  # fmt: skip


def judge_structure(oddities: tuple[Oddity, ...]) -> Iterator[Finding]:
    """Turn what is odd about a file's structure into findings."""
    for oddity in oddities:
        severity = _SEVERITIES.get(oddity.code, Severity.ERROR)
        yield finding(oddity.code, severity, detail=oddity.detail)


def judge_calls(calls: Mapping[str, str]) -> Iterator[Finding]:
    """Judge the functions that a pickle wanted to call.

    Args:
        calls: Dotted names, each with its first call as Python would write it.
    """
    for name, shown in calls.items():
        if (severity := call_severity(name)) is not None:
            yield finding(Code.RUNS_CODE, severity, detail=f"it wanted to call {shown}")


def call_severity(name: str) -> Severity | None:
    """Return how bad a call of a dotted name is; None for what honest checkpoints of torch and numpy call."""
    module, _, function = name.rpartition(".")
    top = name.partition(".")[0]
    if name in _INDIRECT:
        return Severity.WARNING
    if top in _DANGEROUS_MODULES or name in _DANGEROUS or name.startswith(_DANGEROUS_PREFIXES):
        return Severity.ERROR
    if module in ("builtins", "__builtin__"):
        return None if function in _HARMLESS_BUILTINS else Severity.WARNING
    harmless = top in _HARMLESS_MODULES or name in ("types.SimpleNamespace", "io.BytesIO", "_io.BytesIO")
    return None if harmless else Severity.NOTE
