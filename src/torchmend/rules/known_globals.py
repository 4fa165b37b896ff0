"""Names that pickles carry: what honest checkpoints need, and what runs programs, opens files or makes code.

The lists come from reading what torch, numpy and the usual trainers pickle, and from published ways around the
checks of other tools. Neither list can be complete.
"""

DANGEROUS_MODULES = {
    # run programs
    "os", "posix", "nt", "subprocess", "posixsubprocess", "pty", "commands", "popen2", "multiprocessing", "asyncio",
    "concurrent", "webbrowser", "platform", "mailcap", "antigravity", "osx_support", "aix_support", "pyrepl", "pydoc",
    "pexpect", "paramiko", "sh", "plumbum", "fabric", "psutil", "idlelib", "turtledemo", "cgitb",
    # make or run code
    "runpy", "importlib", "imp", "pkgutil", "zipimport", "zipapp", "code", "codeop", "ast", "symtable", "timeit",
    "cProfile", "profile", "pdb", "bdb", "trace", "doctest", "unittest", "lib2to3", "cffi", "ctypes", "inspect",
    "py_compile", "compileall", "modulefinder", "rlcompleter", "six", "numexpr", "site", "sitecustomize",
    # unpickle again
    "pickle", "cPickle", "pickletools", "dill", "cloudpickle", "joblib", "marshal", "shelve", "dbm", "anydbm", "gdbm",
    # files
    "shutil", "tempfile", "fileinput", "linecache", "mmap", "zipfile", "tarfile", "gzip", "bz2", "lzma", "glob",
    "sqlite3", "mailbox", "netrc", "uu", "fcntl",
    # network
    "socket", "socketserver", "SocketServer", "ssl", "select", "selectors", "http", "httplib", "urllib", "urllib2",
    "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "smtpd", "telnetlib", "poplib", "imaplib",
    "nntplib",
    "xmlrpc", "xmlrpclib", "wsgiref", "SimpleHTTPServer", "BaseHTTPServer", "CGIHTTPServer", "boto3", "docker",
    # the interpreter itself, and installers
    "sys", "gc", "signal", "thread", "threading", "atexit", "faulthandler", "tracemalloc", "resource", "interpreters",
    "xxsubinterpreters", "testcapi", "frozen_importlib", "frozen_importlib_external", "winapi", "winreg", "msvcrt",
    "pyio",
    "pip", "ensurepip", "venv", "distutils", "setuptools", "pkg_resources",
}  # fmt: skip
"""Top-level modules, without underscores around the name, of which nothing belongs in a checkpoint."""

AMBIGUOUS = {"code", "trace", "profile", "inspect", "signal", "ast", "http", "commands", "select", "resource",
             "platform",
             "site", "glob", "thread", "sh", "docker", "fabric", "requests", "unittest", "uu", "concurrent", "gc",
             "imp",
             "profiler", "mmap", "six"}  # fmt: skip
"""Of these names, those that a function or field may honestly have."""

REACHING_MODULES = {"os", "posix", "nt", "sys", "subprocess", "builtins", "__builtin__", "importlib", "_vendor", "six",
                    "distutils"}  # fmt: skip
"""Modules that other packages carry or pass on (`six.moves.builtins`)."""

DANGEROUS_ATTRIBUTES = {
    "__dict__", "__globals__", "__builtin__", "__builtins__", "__subclasses__", "__code__", "__loader__", "__spec__",
    "__import__",
    "__getattribute__", "__mro__", "__base__", "__bases__", "__closure__", "__func__", "__wrapped__", "f_globals",
    "f_builtins", "builtins", "eval", "exec", "execfile", "import_module", "run_module", "run_path", "Popen",
    "check_output", "check_call", "getoutput", "getstatusoutput", "system", "popen",
}  # fmt: skip
"""Attributes by which a walk leaves the object that it starts from, and functions that are dangerous wherever found."""

DANGEROUS_BUILTINS = {"eval", "exec", "execfile", "compile", "open", "file", "__import__", "setattr", "delattr",
                      "globals", "locals", "vars", "dir", "input", "raw_input", "breakpoint", "apply", "map", "filter",
                      "reload", "help", "exit", "quit", "memoryview"}  # fmt: skip

DANGEROUS = {
    "torch.load", "torch.save", "torch.compile", "torch.from_file", "torch.ops.load_library",
    "torch.classes.load_library", "torch.UntypedStorage.from_file", "torch.storage.UntypedStorage.from_file",
    "torch.jit.load", "torch.jit.save", "torch.export.load", "torch.export.save", "torch.import_ir_module",
    "numpy.load", "numpy.save", "numpy.savez", "numpy.savez_compressed", "numpy.savetxt", "numpy.loadtxt",
    "numpy.genfromtxt", "numpy.fromfile", "numpy.fromregex", "numpy.memmap", "numpy.DataSource", "numpy.ndarray.tofile",
    "numpy.ndarray.dump", "numpy.lib.format.open_memmap", "numpy.lib.format.read_array", "numpy.memmap.memmap",
    "numpy.core.memmap.memmap", "numpy._core.memmap.memmap", "numpy.apply_along_axis", "numpy.vectorize",
    "functools.reduce", "itertools.starmap", "argparse.FileType", "types.FunctionType", "types.LambdaType",
    "types.CodeType", "types.MethodType", "types.ModuleType", "io.open", "io.open_code", "io.FileIO",
    "io.TextIOWrapper",
    "_io.open", "_io.open_code", "_io.FileIO", "codecs.open", "logging.FileHandler", "pandas.eval",
    "pandas.DataFrame.eval",
    "pandas.DataFrame.query", "pydantic.v1.utils.import_string", "operator.call", "_operator.call",
}  # fmt: skip

DANGEROUS_PREFIXES = (
    "torch.hub.", "torch.package.", "torch.multiprocessing.", "torch.testing.", "torch.serialization.",
    "torch.distributed.run", "torch.distributed.launch", "torch.distributed.elastic.", "torch.distributed.rpc.",
    "torch._inductor.", "torch._dynamo.", "torch._export.", "torch._functorch.", "torch._appdirs", "torch.onnx.",
    "torch.fx.graph_module.", "torch.fx._lazy_graph_module.", "torch.fx.graph.", "torch.fx.experimental.",
    "torch.utils.cpp_extension.", "torch.utils._cpp_extension_versioner.", "torch.utils.collect_env.",
    "torch.utils.bottleneck.", "torch.utils.benchmark.", "torch.utils.model_zoo.", "torch.utils.model_dump.",
    "torch.utils._config_module.", "torch.utils.data.datapipes.", "torch.utils.show_pickle.", "torch.utils.file_baton.",
    "torch.utils.mobile_optimizer.", "torch.utils.tensorboard.", "torch.utils.hipify.", "torch.utils.serialization.",
    "torch.jit.unsupported_tensor_ops.", "torch.jit.frontend.", "torch.jit._script.", "torch.jit._serialization.",
    "torch.cuda._memory_viz.", "torch.backends._nnapi.", "torch.profiler.", "torch.autograd.profiler.",
    "torch.distributed.checkpoint.format_utils.",
    "torch.UntypedStorage.from_file", "torch.storage.UntypedStorage.",
    "numpy.f2py.", "numpy.testing.", "numpy.distutils.", "numpy.lib.npyio.", "numpy.lib._npyio_impl.",
    "numpy.lib._datasource.", "numpy.lib.introspect.", "numpy.lib.utils.", "numpy.compat.", "numpy.ctypeslib.",
    "pathlib.Path.", "pathlib.PosixPath.", "pathlib.WindowsPath.", "logging.config.", "logging.handlers.", "uuid._",
    "pandas.read_", "pandas.io.",
)  # fmt: skip
"""What dotted names start with that run, load, fetch or write something."""

_STORAGES = ("Untyped", "Typed", "Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool",
             "ComplexDouble", "ComplexFloat")  # fmt: skip
DANGEROUS |= {f"torch.{kind}Storage.from_file" for kind in _STORAGES}

HARMLESS = {
    "torch.serialization._get_layout", "types.SimpleNamespace", "io.BytesIO", "_io.BytesIO", "typing.Any",
    "typing.Union", "typing.Optional", "typing.List", "typing.Dict", "typing.Tuple",
    "numpy.random._pickle.__randomstate_ctor", "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor", "pytz._UTC", "pytz._p", "dateutil.tz.tz.tzutc", "zoneinfo.ZoneInfo",
    "zoneinfo.ZoneInfo._unpickle", "pandas._libs.internals._unpickle_block", "pandas.core.indexes.base._new_Index",
    "re._compile", "copyreg._reconstructor", "copyreg.__newobj__", "copyreg.__newobj_ex__", "copy_reg._reconstructor",
    "copy_reg.__newobj__", "copy_reg.__newobj_ex__", "uuid.UUID", "uuid.SafeUUID",
}  # fmt: skip
"""Names that honest checkpoints carry, whatever the other lists say."""

HARMLESS_BUILTINS = {"set", "frozenset", "dict", "list", "tuple", "bytes", "bytearray", "complex", "slice", "range",
                     "xrange", "int", "long", "float", "str", "unicode", "bool", "object", "type", "basestring", "None",
                     "Ellipsis", "NotImplemented", "staticmethod", "classmethod", "property"}  # fmt: skip

HARMLESS_MODULES = {"collections", "_codecs", "datetime", "_datetime", "decimal", "_decimal",
                    "fractions", "pathlib", "argparse", "random", "_random", "enum", "ml_dtypes"}  # fmt: skip
"""Modules of which every name is harmless that does not walk on from there."""

HARMLESS_CLASSES = (
    "lightning.pytorch.callbacks.", "lightning.fabric.utilities.", "lightning.pytorch.utilities.",
    "lightning.pytorch.loggers.", "lightning.pytorch.trainer.states.",
    "lightning_fabric.utilities.", "pytorch_lightning.callbacks.", "pytorch_lightning.utilities.",
    "pytorch_lightning.loggers.", "pytorch_lightning.trainer.states.", "pytorch_lightning.core.",
    "transformers.training_args.", "transformers.training_args_seq2seq.", "transformers.trainer_utils.",
    "transformers.trainer_pt_utils.", "transformers.integrations.deepspeed.", "transformers.deepspeed.",
    "transformers.utils.generic.", "transformers.debug_utils.", "transformers.configuration_utils.",
    "transformers.generation.configuration_utils.", "transformers.models.", "transformers.modeling_outputs.",
    "accelerate.state.", "accelerate.utils.dataclasses.", "accelerate.utils.deepspeed.", "accelerate.scheduler.",
    "trl.trainer.", "peft.tuners.", "peft.utils.peft_types.", "diffusers.models.", "diffusers.configuration_utils.",
    "omegaconf.", "hydra.", "yacs.config.", "easydict.", "addict.", "munch.", "ml_collections.",
    "mmengine.config.", "mmengine.logging.", "mmcv.utils.config.", "fvcore.common.", "detectron2.config.",
    "deepspeed.runtime.fp16.", "deepspeed.runtime.bf16_optimizer.", "deepspeed.runtime.zero.", "deepspeed.utils.",
    "deepspeed.runtime.config.", "megatron.core.enums.", "megatron.core.transformer.", "megatron.core.optimizer.",
    "megatron.core.rerun_state_machine.", "megatron.enums.", "megatron.model.enums.", "megatron.training.arguments.",
    "megatron.core.dist_checkpointing.", "fairseq.dataclass.", "fairseq.meters.", "fairseq.logging.meters.",
    "timm.models.", "timm.layers.", "timm.utils.", "torchvision.models.", "torchvision.ops.", "torchvision.transforms.",
    "torchaudio.models.", "torchaudio.transforms.", "torch_geometric.nn.", "torchmetrics.", "ultralytics.nn.",
    "ultralytics.utils.", "sklearn.preprocessing.", "pandas.core.", "pandas._libs.", "scipy.sparse.",
    "gymnasium.spaces.",
    "gym.spaces.", "stable_baselines3.common.",
)  # fmt: skip
"""Modules below which every class is harmless. Functions of theirs are not: some fetch and run code."""

UNPICKLES_AGAIN = {"torch.storage._load_from_bytes"}
"""What honest copies of storages are made of, and what unpickles bytes that are not looked into here."""
