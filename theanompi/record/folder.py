"""A run's folder: which files are in it, who is at work in it, and that no run in it is lost."""

import contextlib
import fcntl
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from theanompi.config import ConfigError, RunConfig, counted, got, is_text
from theanompi.config.files import instead_of_file, read_text, reason, trouble, write_whole, writing
from theanompi.config.kinds import AUTO
from theanompi.record.log import read_log
from theanompi.record.metrics import CLASSIFIER, Reported, reported

CONFIG_FILE = "config.json"
LOG_FILE = "log.jsonl"
CURVES_FILE = "curves.png"
CHECKPOINT_FILE = "checkpoint.h5"
BEST_FILE = "best.h5"
TIMELINE_FILE = "timeline.json"
CSV_FILE = "log.csv"
WANDB_FILE = "wandb.id"
MLFLOW_FILE = "mlflow.id"
LOCK_FILE = "run.lock"
RUN_FILES = (
    *(CONFIG_FILE, LOG_FILE, CURVES_FILE, CHECKPOINT_FILE, BEST_FILE, TIMELINE_FILE),
    *(CSV_FILE, WANDB_FILE, MLFLOW_FILE),
)

NO_SETTINGS = ("size", "versions", "metrics", "metric", "noun", "defaults", "init_sha256")
"""What ``config.json`` has beside the settings."""

# Seconds in which the ranks of a run that was killed may still hold its lock.
_GRACE = 3.0


class RunFolder:
    """The folder of a run, which one process at a time holds: from the constructor until `release` or its end.

    It is made with its parents where missing, and what is to be done with a run in it is checked. The lock is the
    file system's own (``flock``), which on most of them holds across hosts: it ends with its process, however that
    ends, and the next one takes the file over. Where a file system has no locks, what the file says of its process
    decides.

    Parameters
    ----------
    path : Path
    resume : bool or "auto"
        Go on with the run in it, which must have a checkpoint. With "auto" a folder without one is begun in, in the
        place of what a run has left there that was ended before its first checkpoint.
    overwrite : bool
        Replace the run in it, once `clear` is called.

    Attributes
    ----------
    path : Path
    resume : bool
        Whether a run is gone on with.

    Raises
    ------
    ConfigError
        If there is a run in the folder and neither was asked for, if there is no checkpoint to resume from, if
        another process is at work in it, or if it is not a folder in which one can write.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with RunFolder(Path(folder, "runs", "first"), resume=False, overwrite=False):
    ...         os.listdir(Path(folder, "runs", "first"))
    ...     os.listdir(Path(folder, "runs"))
    ['run.lock']
    []
    """

    def __init__(self, path: Path, *, resume: bool | str, overwrite: bool) -> None:
        self.path, self._overwrite, self._asked = path, overwrite, resume
        self._lock: int | None = None
        self._check()
        self._made = not os.path.lexists(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                pass
            self._lock = self._hold()
            # Again, as the process that has just let it go may have left a run there.
            self._check()
            # What a killed process was about to put in a file's place.
            unfinished = [path / f"{name}.tmp" for name in RUN_FILES]
            for file in (*unfinished, *path.glob("checkpoint-*.h5.tmp")):
                file.unlink(missing_ok=True)
        except ConfigError:
            self.release()
            raise
        except (OSError, ValueError) as error:
            self.release()
            raise ConfigError(_no_folder(path, error)) from error

    def _check(self) -> None:
        there = {name for name in RUN_FILES if os.path.lexists(self.path / name)}
        if self._asked == AUTO:
            self.resume = CHECKPOINT_FILE in there
            self._overwrite = not self.resume
            if self._overwrite and LOG_FILE in there:
                self._check_begun()
            return
        self.resume = resume = bool(self._asked)
        if resume and CHECKPOINT_FILE not in there:
            raise ConfigError(
                f"run folder {self.path}: expected {CHECKPOINT_FILE} to resume from, got none there"
            )
        if there & {CONFIG_FILE, LOG_FILE, CHECKPOINT_FILE, BEST_FILE} and not (resume or self._overwrite):
            raise ConfigError(
                f"run folder {self.path}: expected none or one without a run, got one with a run in it; "
                "continue it with --resume, replace it with --overwrite, or choose another with --out"
            )

    def _check_begun(self) -> None:
        """Refuse to begin anew where a checkpoint is missing that there has been, as each epoch ends with one."""
        try:
            log = read_log(self.path / LOG_FILE)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        validated = sum(record["kind"] == "val" for record in log)
        if validated > 1 or any(record["kind"] == "summary" for record in log):
            raise ConfigError(
                f"run folder {self.path}: expected {CHECKPOINT_FILE}, as {LOG_FILE} has "
                f"{counted(validated, 'epoch')} of a run, got none there; --overwrite begins the run again"
            )

    def _hold(self) -> int:
        """Take the lock; gives its file descriptor, which children do not inherit."""
        file, deadline = self.path / LOCK_FILE, time.monotonic() + _GRACE
        while True:
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                if _lock(lock) and _is(lock, file):
                    about = {
                        "host": platform.node(),
                        "pid": os.getpid(),
                        "since": datetime.now().isoformat(" ", "seconds"),
                    }
                    os.ftruncate(lock, 0)
                    os.pwrite(lock, json.dumps(about).encode(), 0)
                    return lock
                holder = _holder(lock)
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"run folder {self.path}: expected one in which no run is at work, got one in which {holder} is"
                )
            time.sleep(0.1)

    def _is_held(self) -> bool:
        """Whether the folder of this name is still the one that was taken."""
        return self._lock is not None and _is(self._lock, self.path / LOCK_FILE)

    def clear(self) -> None:
        """Remove the files of the run that was to be replaced, and nothing else.

        Raises
        ------
        ConfigError
            If another folder has the name by now, in which another run may be.
        theanompi.config.files.CannotWrite
        """
        if not self._is_held():
            raise ConfigError(
                f"run folder {self.path}: expected the one that this run has begun in, got another one or none of its "
                "name: it was renamed or removed meanwhile"
            )
        if self._overwrite:
            files = [self.path / name for name in RUN_FILES]
            files += [*_numbered(self.path).values(), *self.path.glob("events.out.tfevents.*")]
            for path in files:
                with writing(path):
                    path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process have the folder; one that was made for nothing is removed."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                # Of a folder that has taken this one's place, the lock may be another run's.
                if self._is_held():
                    (self.path / LOCK_FILE).unlink()
                    if self._made:
                        self.path.rmdir()
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


def _no_folder(path: Path, error: OSError | ValueError) -> str:
    got = "a file of this name" if isinstance(error, FileExistsError) else reason(error)
    return f"run folder {path}: expected a folder to write in, got: {got}"


def _lock(lock: int) -> bool:
    """Whether the lock could be had."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks.
        about = _about(lock)
        if about.get("host") != platform.node():
            return not about
        return not Path(f"/proc/{about.get('pid')}").is_dir()


def at_work(path: Path) -> str | None:
    """Return who is at work in a run's folder, in words, or None.

    >>> with tempfile.TemporaryDirectory() as folder, RunFolder(Path(folder), resume=False, overwrite=False):
    ...     at_work(Path(folder)).startswith(f"process {os.getpid()} on ")
    True
    """
    try:
        lock = os.open(path / LOCK_FILE, os.O_RDWR)
    except OSError:
        return None
    try:
        return None if _lock(lock) else _holder(lock).removesuffix(",")
    finally:
        os.close(lock)


def _is(lock: int, file: Path) -> bool:
    """Whether an open file still has its name: its last holder may just have removed it."""
    try:
        return os.path.samestat(os.fstat(lock), file.stat())
    except FileNotFoundError:
        return False


def _about(lock: int) -> dict[str, Any]:
    try:
        about = json.loads(os.pread(lock, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return about if isinstance(about, dict) else {}


def _holder(lock: int) -> str:
    about = _about(lock)
    if not about:
        return "another process"
    return f"process {about.get('pid')} on {about.get('host')}, since {about.get('since')},"


def write_config(out: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json``, replacing a previous one as a whole.

    Parameters
    ----------
    out : Path
        The folder of the run.
    config : mapping
        What `theanompi.config.RunConfig` was resolved to, as JSON values, and `NO_SETTINGS`.
    """
    replace_text(out / CONFIG_FILE, json.dumps(config, indent=2, allow_nan=False) + "\n")


def append_text(path: Path, text: str) -> None:
    """Add to a file of a run that is there: one that was removed is not begun in its middle.

    Raises
    ------
    theanompi.config.files.CannotWrite
    """

    def there(name: str, flags: int) -> int:
        return os.open(name, flags & ~os.O_CREAT)

    with writing(path), open(path, "a", encoding="utf-8", newline="", opener=there) as file:
        file.write(text)


def keep_checkpoint(out: Path, iteration: int, *, best: bool, last: int) -> None:
    """Give the checkpoint of a run the other names that it is kept by when the next one takes its place.

    These are links to the same file, or copies where a file system has none.

    Parameters
    ----------
    out : Path
        The folder of the run.
    iteration : int
        Of its checkpoint.
    best : bool
        Whether it is the best so far: ``best.h5``.
    last : int
        How many are kept as ``checkpoint-ITERATION.h5``, if more than 1; older ones are removed.

    Raises
    ------
    theanompi.config.files.CannotWrite

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for iteration in (9, 10, 11):
    ...         replace_text(Path(folder, "checkpoint.h5"), f"{iteration}")
    ...         keep_checkpoint(Path(folder), iteration, best=iteration == 10, last=2)
    ...     {file.name: file.read_text() for file in sorted(Path(folder).iterdir())}
    {'best.h5': '10', 'checkpoint-10.h5': '10', 'checkpoint-11.h5': '11', 'checkpoint.h5': '11'}
    """
    names = [BEST_FILE] * best + [f"checkpoint-{iteration}.h5"] * (last > 1)
    for name in names:
        with writing(out / name):
            _link(out / CHECKPOINT_FILE, out / name)
    if last > 1:
        there = _numbered(out)
        kept = sorted(number for number in there if number <= iteration)
        for number in kept[:-last]:
            with writing(there[number]):
                there[number].unlink()


def _link(source: Path, name: Path) -> None:
    """Let a file have another name, in the place of what has it."""
    temporary = name.with_name(name.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(os.path.realpath(source), temporary)  # not the link that a user has put there
        except OSError:  # a file system without links
            shutil.copyfile(source, temporary)
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, name)
    finally:
        # Of two names of one file, which these may be, `replace` leaves both.
        temporary.unlink(missing_ok=True)


def _numbered(out: Path) -> dict[int, Path]:
    """The checkpoints that are kept by their iterations."""
    found = ((re.fullmatch(r"checkpoint-(\d+)\.h5", path.name), path) for path in out.glob("checkpoint-*.h5"))
    return {int(match[1]): path for match, path in found if match}


def find_checkpoint(run: str | os.PathLike[str]) -> Path:
    """Find the checkpoint of a run, with ``config.json`` beside it.

    Parameters
    ----------
    run : str or path
        The folder of a run, or a checkpoint in it.

    Raises
    ------
    ConfigError
        If there is no such run, or it has no checkpoint yet.

    Examples
    --------
    >>> find_checkpoint("nowhere")
    Traceback (most recent call last):
        ...
    theanompi.config.errors.ConfigError: run: expected a run's folder or its checkpoint, got 'nowhere' (No such file \
or directory)
    """
    path = Path(run)
    wrong = trouble(path)
    if wrong == "a folder":
        folder, path = path, path / CHECKPOINT_FILE
    elif wrong:
        raise ConfigError(
            f"run: expected a run's folder or its checkpoint, got {got(os.fspath(run))} ({wrong})"
        )
    else:
        folder = path.parent
    for name, words in ((CONFIG_FILE, "with its settings"), (path.name, "which the run has saved")):
        wrong = instead_of_file(folder / name)
        if wrong:
            raise ConfigError(f"run {folder}: expected {name}, {words}, got {wrong}")
    return path


def read_settings_of(folder: Path) -> RunConfig:
    """Read the settings of the run in a folder.

    Raises
    ------
    ConfigError
        If ``config.json`` is not there, damaged, or has what no run writes.
    """
    about = read_json(folder / CONFIG_FILE)
    try:
        return RunConfig.from_dict({name: value for name, value in about.items() if name not in NO_SETTINGS})
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from None


def reported_by(folder: Path) -> Reported:
    """Read what the run in a folder reports, or what a classifier does where there is no ``config.json``.

    Raises
    ------
    ConfigError
        If that is damaged.
    """
    path = folder / CONFIG_FILE
    return reported(read_json(path), str(path)) if path.exists() else CLASSIFIER


def to_use(checkpoint: Path, devices: tuple[str, ...]) -> RunConfig:
    """Give the settings to build a run's model with, and none of how it was trained, which may not fit its use.

    Parameters
    ----------
    checkpoint : Path
        As from `find_checkpoint`.
    devices : tuple of str
        On which it is used.

    Raises
    ------
    ConfigError
        As `read_settings_of`.
    """
    config = read_settings_of(checkpoint.parent)
    settings = {k: v for k, v in config.settings.items() if not k.startswith(("rule.", "clock."))}
    return replace(
        config,
        devices=devices,
        settings=settings,
        rule="BSP",
        sync_type="cdd",
        workers_simulated=None,
        accumulation=1,
        mixup=0.0,
        cutmix=0.0,
        allreduce_algorithm=None,
        init=None,
        resume=False,
        overwrite=False,
        verbose=False,
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    ConfigError
        If there is none that can be read.
    """
    try:
        value = json.loads(read_text(path, str(path)))
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or not is_text(json.dumps(value, ensure_ascii=False)):
        raise ConfigError(f"{path}: expected a JSON object, got a damaged file")
    return value


def replace_text(path: Path, text: str) -> None:
    """Write a file so that at any moment it has either its old text or the new one, as a whole.

    Raises
    ------
    theanompi.config.files.CannotWrite
        Which has changed nothing.
    """
    with writing(path):
        write_whole(path, text.encode())
