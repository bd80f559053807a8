"""A root with nothing in it but a system: `CleanRoot`, by namespaces of Linux, without a container engine."""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

HOME = "/home/user"
SYSTEM = ("usr", "etc", "bin", "sbin", "lib", "lib64")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
PASSED = ("PIP_", "SSL_CERT_")
"""How the names begin of what commands find in their environment of ours, so that pip works as it does outside."""


class CleanRoot:
    """Runs commands that see a system, a home of their own, and nothing else of this machine but its network.

    Parameters
    ----------
    folder : pathlib.Path
        Becomes the root; empty.
    system : pathlib.Path
        Whose ``/usr``, ``/etc`` and the like are seen, read-only, without ``/usr/local``.
    shown : iterable of pathlib.Path
        More folders of this machine, at the same place, read-only.
    cache : pathlib.Path or None
        Of pip, which may write there; None without one.
    """

    def __init__(
        self,
        folder: Path,
        system: Path = Path("/"),
        *,
        shown: Iterable[Path] = (),
        cache: Path | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.home = self.folder / HOME[1:]
        self._mounts: list[str] = []
        for name in ("tmp", "run", "var/tmp", "proc", "sys", "dev", HOME[1:]):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for name in SYSTEM:
            source, target = system / name, self.folder / name
            if source.is_symlink():
                target.symlink_to(source.readlink())
            elif source.is_dir():
                self._show(source.resolve(), f"/{name}")
        if not any(path.is_relative_to("/usr/local") for path in shown):
            self._mounts.append(f"mount -t tmpfs none {self._at('/usr/local')}")
        for path in shown:
            self._show(path.resolve(), str(path.absolute()))
        self._show(Path("/sys"), "/sys")
        self._mounts += [f"mount -t proc none {self._at('/proc')}", f"mount -t tmpfs none {self._at('/dev')}"]
        for name in DEVICES:
            at = self._at(f"/dev/{name}")
            self._mounts.append(f"touch {at} && mount --bind /dev/{name} {at}")
        self._mounts += [
            f"ln -s /proc/self/fd {self._at('/dev/fd')}",
            f"mkdir {self._at('/dev/shm')}",
            f"mount -t tmpfs none {self._at('/dev/shm')}",
        ]
        self.environ = {n: v for n, v in os.environ.items() if n.startswith(PASSED) or n.endswith("_proxy")}
        self.environ |= {
            "HOME": HOME,
            "LANG": "C.UTF-8",
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        settings = Path.home() / ".config" / "pip" / "pip.conf"
        if settings.exists():
            (self.home / ".config" / "pip").mkdir(parents=True, exist_ok=True)
            shutil.copy(settings, self.home / ".config" / "pip")
        if cache is None:
            self.environ["PIP_NO_CACHE_DIR"] = "1"
        else:
            (self.home / ".cache" / "pip").mkdir(parents=True, exist_ok=True)
            self._mounts.append(
                f"mount --bind {shlex.quote(str(cache.resolve()))} {self._at(HOME + '/.cache/pip')}"
            )

    def _at(self, path: str) -> str:
        return shlex.quote(f"{self.folder}{path}")

    def _show(self, source: Path, path: str) -> None:
        at = self._at(path)
        self._mounts += [
            f"mkdir -p {at}",
            f"mount --rbind {shlex.quote(str(source))} {at}",
            f"mount -o remount,bind,ro {at}",
        ]

    def run(self, command: str, *, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command of bash in the home; gives its status, and what it printed as ``stdout``.

        Raises
        ------
        subprocess.TimeoutExpired
            After so many seconds; all of its processes are then gone.
        """
        # Who is root outside needs no user namespace, in which only one user would exist.
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        inside = shlex.join(["bash", "-c", f"cd {HOME} && {command}"])
        setup = " && ".join([*self._mounts, f"exec chroot {self._at('')} {inside}"])
        return subprocess.run(
            ["unshare", *user, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", setup],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
        )
