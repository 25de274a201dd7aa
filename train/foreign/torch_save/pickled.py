"""The pickle inside a torch.save file, read as data: tensors as places in the file, classes as inert names, nothing imported or called.

The stream is walked opcode by opcode (`pickletools.genops` only splits it) with an own meaning for each. A global never becomes
the Python object it names: it is a tensor's rebuild rule, a dtype, or a `Foreign` stand-in that holds a name and whatever was
given to it. Names that exist to run things (os.system, builtins.eval, …) and opcodes torch.save never writes are refused.
"""

from __future__ import annotations

import pickletools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.foreign.torch_save.members import TorchFileError
from train.model_files.dtypes import BF16, FP16, FP32, FP64, NAMED, DType

MAX_PICKLE_BYTES = 32 << 20  # a 70B model's is below 1 MB
MAX_OPCODES = 1_000_000
MAX_DEPTH = 1_000


class Foreign:
    """A class, or an object of one, that was named and is not made: compared by identity, cannot be called."""

    __slots__ = ("args", "made", "name", "state")

    def __init__(self, name: str, made: bool = False, args: tuple = ()):
        self.name, self.made, self.args, self.state = name, made, args, None

    def __repr__(self) -> str:
        return f"Foreign({self.name})"


# what the names of storages and dtypes stand for; spelled out so that nothing is looked up by a foreign name
_STORAGES = {
    "DoubleStorage": FP64, "FloatStorage": FP32, "HalfStorage": FP16, "BFloat16Storage": BF16, "LongStorage": NAMED["int64"],
    "IntStorage": NAMED["int32"], "ShortStorage": NAMED["int16"], "CharStorage": NAMED["int8"], "ByteStorage": NAMED["uint8"],
    "BoolStorage": NAMED["bool"], "ComplexFloatStorage": NAMED["complex64"], "ComplexDoubleStorage": NAMED["complex128"],
    "UntypedStorage": NAMED["uint8"],
}  # fmt: skip
_DTYPES = {name: value for name, value in NAMED.items()} | dict.fromkeys((
    "complex32", "uint16", "uint32", "uint64", *(f"{sign}int{n}" for sign in ("", "u") for n in range(1, 8)), "bits8", "bits16", "bits1x8",
    "bits2x4", "bits4x2", "qint8", "qint32", "quint8", "quint2x4", "quint4x2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2",
    "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2",
))  # fmt: skip
_REBUILD = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter", "_rebuild_parameter_with_state"}
_OWN = {f"torch._utils.{n}" for n in _REBUILD} | {
    "collections.OrderedDict", "torch.Size", "torch._tensor._rebuild_from_type_v2", "builtins.getattr", "__builtin__.getattr",
}  # fmt: skip
# plain data of the standard library, torch and numpy; anything else of theirs is refused
_BUILTINS = "set frozenset object int float str bool list dict tuple slice complex bytes bytearray range".split()
_INERT = {f"{b}.{n}" for b in ("builtins", "__builtin__") for n in _BUILTINS} | {
    "argparse.Namespace", "types.SimpleNamespace", "_codecs.encode", "copyreg._reconstructor", "copy_reg._reconstructor",
    "collections.defaultdict", "collections.deque", "collections.Counter", "uuid.UUID", "decimal.Decimal", "fractions.Fraction",
    *(f"datetime.{n}" for n in ("datetime", "date", "time", "timedelta", "timezone")),
    *(f"pathlib.{n}" for n in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
    "torch.device", "torch.Tensor", "torch.nn.parameter.Parameter", "torch.Generator", "torch.serialization._get_layout",
    "torch._utils._rebuild_meta_tensor_no_storage", "torch._utils._rebuild_tensor_v3", "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_qtensor", "torch._utils._rebuild_device_tensor_from_numpy",
    "numpy.dtype", "numpy.ndarray", "numpy.random.mtrand.RandomState", "numpy.random._pickle.__randomstate_ctor",
    *(f"numpy.{c}.multiarray.{n}" for c in ("core", "_core") for n in ("_reconstruct", "scalar")),
}  # fmt: skip
_SETS = {"builtins.set", "builtins.frozenset", "__builtin__.set", "__builtin__.frozenset"}
_INERT_WITHIN = ("torch.optim.", "torch.distributed.")  # schedulers, devices meshes: plain objects of theirs
_GUARDED = sys.stdlib_module_names | {
    "torch", "numpy", "__builtin__", "__builtins__", "commands", "copy_reg", "cPickle", "nt", "posix", "pip", "setuptools",
    "pkg_resources", "dill", "cloudpickle", "joblib", "IPython", "pytest", "_pytest",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_]\w{0,199}", re.ASCII)
_KEYS = (str, int, float, bool, bytes, type(None))
_PLAIN = (
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE"
    " BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
).split()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}


def read_pickle(path: Path, data: bytes, storage: Callable[[DType, Any, Any], Any], tensor: Callable[..., Any]) -> Any:
    """The object the stream describes: dicts, lists, tuples, scalars, dtypes, tensors, Foreign.

    Args:
        storage: (dtype, key, numel) -> a storage. tensor: (storage, offset, shape, stride) -> a tensor.
    Raises:
        TorchFileError: damaged, over the caps, or it names code.
    """
    machine = _Machine(path, storage, tensor)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise TorchFileError(
                    f"{path}: its pickle has more than {MAX_OPCODES:,} opcodes; an attack or rubbish, do not use this file"
                )
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.do(opcode.name, argument)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError, MemoryError) as error:
        if isinstance(error, TorchFileError):
            raise
        raise TorchFileError(f"{path}: its pickle is damaged ({type(error).__name__}); fetch the file again") from None
    raise TorchFileError(f"{path}: its pickle has no end; fetch the file again")


class _Machine:
    """A stack, the stacks below it since each MARK, and the memo."""

    def __init__(self, path: Path, storage: Callable[..., Any], tensor: Callable[..., Any]):
        self.path, self.storage, self.tensor = path, storage, tensor
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, what: str) -> TorchFileError:
        return TorchFileError(f"{self.path}: {what}; nothing was run; do not load this file elsewhere, fetch it from a source you trust")

    def do(self, name: str, argument: Any) -> None:
        if name in _PLAIN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            self.stack.append(self.memo[argument])
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif handler := getattr(self, f"_{name.lower()}", None):
            handler(argument)
        else:
            raise self.refuse(f"its pickle uses {name}, which torch.save never writes")

    # -- containers ---------------------------------------------------------------------------------------------------

    def _proto(self, argument: int) -> None:
        pass

    def _frame(self, argument: int) -> None:
        pass

    def _mark(self, _: None) -> None:
        if len(self.below) >= MAX_DEPTH:
            raise TorchFileError(f"{self.path}: its pickle nests deeper than {MAX_DEPTH}; an attack or rubbish, do not use this file")
        self.below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def _pop(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self, _: None) -> None:
        self._since_mark()

    def _dup(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def _take(self, n: int) -> tuple:
        taken = tuple(self.stack[len(self.stack) - n :])
        if len(taken) < n:
            raise IndexError
        del self.stack[len(self.stack) - n :]
        return taken

    def _empty_tuple(self, _: None) -> None:
        self.stack.append(())

    def _tuple1(self, _: None) -> None:
        self.stack.append(self._take(1))

    def _tuple2(self, _: None) -> None:
        self.stack.append(self._take(2))

    def _tuple3(self, _: None) -> None:
        self.stack.append(self._take(3))

    def _tuple(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    _empty_set = _empty_list  # a set is kept as a list: nothing foreign is hashed

    def _list(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append(items)

    _frozenset = _list

    def _append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, Foreign):  # a stand-in for a list's subclass keeps nothing
            target.extend(items)

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _dict(self, _: None) -> None:
        items = self._since_mark()
        self.stack.append({})
        self._update(items)

    def _setitem(self, _: None) -> None:
        self._update(list(self._take(2)))

    def _setitems(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Foreign):
            return
        for key, value in zip(items[::2], items[1::2], strict=True):
            # nested tuples can take for ever to hash: such a key becomes a stand-in, hashed by identity
            target[key if isinstance(key, _KEYS) or isinstance(key, Foreign) else Foreign("key")] = value

    # -- names and objects --------------------------------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._named(module, name))

    def _stack_global(self, _: None) -> None:
        module, name = self._take(2)
        self.stack.append(self._named(module, name))

    def _named(self, module: Any, name: Any) -> Any:
        parts = [*module.split("."), name] if isinstance(module, str) and isinstance(name, str) else [""]
        full = ".".join(parts)
        if len(full) > 500 or not all(_NAME.fullmatch(p) for p in parts):
            raise self.refuse(f"its pickle names {full[:80]!r}, which is no plain name")
        if parts[0] == "torch" and parts[-1] in _STORAGES and full in (f"torch.{name}", f"torch.storage.{name}"):
            return _STORAGES[name], "storage"
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name] or Foreign(full)
        if parts[0] in _GUARDED and full not in _OWN | _INERT and not full.startswith(_INERT_WITHIN):
            raise self.refuse(f"its pickle names {full}, which could run code when unpickled")
        return Foreign(full)

    def _reduce(self, _: None) -> None:
        function, arguments = self._take(2)
        self.stack.append(self._call(function, arguments))

    def _newobj(self, _: None) -> None:
        self._reduce(None)

    def _newobj_ex(self, _: None) -> None:
        self._take(1)
        self._reduce(None)

    def _call(self, function: Any, arguments: Any) -> Any:
        """What calling would have made, for the few rules we know; a stand-in for the rest."""
        if not isinstance(function, Foreign) or function.made or not isinstance(arguments, tuple):
            raise self.refuse("its pickle calls something that is no plain class")
        name = function.name
        if name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return self.tensor(*arguments[:4])
        if name in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return arguments[0]
        if name == "torch._tensor._rebuild_from_type_v2":  # a tensor with attributes: (rule, class, its arguments, attributes)
            return self._call(arguments[0], arguments[2])
        if name == "torch.Size":
            return tuple(arguments[0]) if arguments else ()
        if name == "collections.OrderedDict":
            return dict(arguments[0]) if arguments else {}
        if name == "_codecs.encode" and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
            return arguments[0].encode("latin1")  # bytes, in protocol 2
        if name in _SETS:
            return list(arguments[0]) if arguments else []
        if name.endswith(".getattr") and name in _OWN:  # how some Pythons pickle an enum's member
            owner, attribute = arguments
            if not isinstance(owner, Foreign) or owner.made or not _NAME.fullmatch(attribute) or attribute.startswith("_"):
                raise self.refuse("its pickle looks up attributes by getattr")
            return Foreign(owner.name, made=True, args=(attribute,))
        return Foreign(name, made=True, args=arguments)

    def _build(self, _: None) -> None:
        target, state = self.stack[-2], self.stack.pop()
        if isinstance(target, Foreign):
            if not target.made:
                raise self.refuse(f"its pickle changes the class {target.name}")
            target.state = state

    def _binpersid(self, _: None) -> None:
        identity = self.stack.pop()
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise self.refuse("its pickle holds a persistent id that is no storage")
        _, kind, key, _, numel = identity
        if not isinstance(kind, tuple) or len(kind) != 2 or kind[1] != "storage" or not isinstance(kind[0], DType):
            raise self.refuse("its pickle holds a storage of no known type")
        self.stack.append(self.storage(kind[0], key, numel))
