"""What can be wrong with a run's settings, found before anything is started."""

import ast
import errno
import os
import threading

from theanompi.config import FIELDS, PACKAGED, ConfigError, RunConfig, closest, got, hosts, read_clock
from theanompi.config.files import MOST_TEXT, packed_by, read_bytes, reason, split_prefix, trouble
from theanompi.config.modules import find_module, look_in_current_folder
from theanompi.config.plugins import own_class

# The data set of a run of whose data neither the run nor the model's class says anything.
_USUAL: str = FIELDS["data"].metadata["default"]
# CPython 3.11.7 and older count the depth of a syntax tree for all threads at once: two of them that build one
# at the same time end in a SystemError (python/cpython#106905). `compare` starts runs from several threads.
_parsing = threading.Lock()


def check(config: RunConfig) -> None:
    """Check that the files and names of a run exist, without importing the model or opening the data set.

    The current folder is put on ``sys.path``, where Theano-MPI looked for models too.

    Raises
    ------
    theanompi.config.ConfigError
        When the module or the class of the model, or of an optimizer, schedule, rule or logger of the user's, is not
        there, or the module does not parse, or the file of the data set or of the weights to start from is not there.
    """
    look_in_current_folder()
    clock = read_clock(config)
    if clock.order is not None and (wrong := trouble(clock.order)):
        raise ConfigError(f"clock.order: expected the log of a run, got {got(clock.order)} ({wrong})")
    _check_class("modelfile", config.modelfile, "modelclass", config.modelclass)
    chosen = [(setting, getattr(config, setting) or "") for setting in ("optimizer", "schedule", "rule")]
    for setting, name in chosen + [("logger", name) for name in config.logger or ()]:
        own = own_class(name)
        if own is not None:
            _check_class(setting, own[0], setting, own[1])
    elsewhere = hosts(config.devices)[0].name is not None
    wrong = "" if config.data is None or config.data in PACKAGED or elsewhere else trouble(config.data)
    if wrong:
        hint = "" if wrong == os.strerror(errno.ENOENT) else f" ({wrong})"
        hint += packed_by(str(config.data)) if wrong == "a folder" else ""
        raise ConfigError(
            f"data: expected {', '.join(PACKAGED)} or the path of an HDF5 file, got {got(config.data)}, which is none"
            f"{hint}"
        )
    check_init(config)


def check_init(config: RunConfig) -> None:
    """Check that what a run is to start from is there; whoever resumes a run does not need it.

    Raises
    ------
    theanompi.config.ConfigError
    """
    if not config.init or config.resume or hosts(config.devices)[0].name is not None:
        return
    file, _ = split_prefix(config.init)
    wrong = trouble(file)
    # The folder of a run is for the worker to look into.
    if wrong and not os.path.isdir(file):
        raise ConfigError(
            f"init: expected a file of weights or the folder of a run, got {got(file)} ({wrong})"
        )


def data_by_source(config: RunConfig) -> str | None:
    """Return the data set that a run will take which names none, if its model's source says so; nothing is imported.

    None where it does not: for a class that is no `theanompi.Model`, or whose defaults are more than a plain dict.

    Examples
    --------
    >>> data_by_source(RunConfig(modelfile="models.lstm", modelclass="LSTM"))
    'reviews'
    >>> data_by_source(RunConfig(modelfile="models.resnet50", modelclass="ResNet50"))
    'digits'
    """
    if config.data is not None:
        return config.data
    try:
        return _data_of_class(config.modelfile, config.modelclass, 10)
    except ConfigError:
        return None


def _data_of_class(module: str, name: str, most: int) -> str | None:
    """What `data_by_source` says of a class, or of the one that it inherits its defaults from, at most so many away."""
    if (module, name) == ("theanompi", "Model"):
        return _USUAL
    _, tree = _parse("modelfile", module)
    stored = [node for node in ast.walk(tree) if isinstance(getattr(node, "ctx", None), ast.Store)]
    if not most or any(isinstance(node, ast.Attribute) and node.attr == "defaults" for node in stored):
        return None
    places = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
    }
    cls = next((node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if cls is None:
        return _data_of_class(*places[name], most - 1) if name in places else None
    if cls.decorator_list or cls.keywords:
        return None
    given = [
        node.value
        for node in cls.body
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id == "defaults"
    ]
    if given:
        try:
            return str({"data": _USUAL, **ast.literal_eval(given[-1])}["data"])
        except (TypeError, ValueError):
            return None
    if len(cls.bases) != 1 or not isinstance(cls.bases[0], ast.Name):
        return None
    base = cls.bases[0].id
    return _data_of_class(*places.get(base, (module, base)), most - 1)


def _check_class(of_module: str, module: str, of_class: str, name: str) -> None:
    """Check that a module has a class; `of_module` and `of_class` are the settings that say so."""
    file, tree = _parse(of_module, module)
    names = _names(tree)
    if name not in names and "*" not in names:
        raise ConfigError(f"{of_class}: expected a class of {file}, got {got(name)}{closest(name, names)}")


def _parse(setting: str, module: str) -> tuple[str, ast.Module]:
    """The file of a module that a setting names, and what is in it."""
    spec = find_module(module, setting)
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"{setting}: expected a Python file, got {got(module)} ({spec.origin or 'a folder'})"
        )
    try:
        with _parsing:
            return spec.origin, ast.parse(read_bytes(spec.origin, MOST_TEXT), spec.origin)
    except SyntaxError as error:
        raise ConfigError(
            f"{setting}: expected Python in {spec.origin}, got {error.msg} in line {error.lineno}"
        ) from None
    except (ValueError, OSError, RecursionError, MemoryError) as error:  # NUL bytes, or nested too deeply
        raise ConfigError(f"{setting}: expected Python in {spec.origin}, got: {reason(error)}") from None


def _names(tree: ast.Module) -> list[str]:
    """List what a module binds: classes, and names imported or assigned that may be some.

    A ``*`` stands for any name, of an import or of the module's own ``__getattr__``.
    """
    names: list[str] = []
    nodes: list[ast.AST] = [tree]
    for node in nodes:
        match node:
            case ast.ClassDef():
                names.append(node.name)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                names += ["*"] * (node.name == "__getattr__")
            case ast.alias():
                names.append(node.asname or node.name)
            case ast.Name(ctx=ast.Store()):
                names.append(node.id)
            case _:  # such as the branches of an if, or what a try tries
                nodes += ast.iter_child_nodes(node)
    return names
