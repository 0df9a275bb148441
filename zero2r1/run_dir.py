"""What a run leaves on disk: the interface between the trainers, which write it, and report, dashboard and CLI, which read it.

runs/2026-11-21_0203_demo_7f3a/
    config.yaml command.txt env.json run.json      what was asked for, where, and how it went
    metrics.jsonl events.jsonl                     one object a step; one object an event
    rollouts/step_000120.parquet                   every completion of a step
    evals/NAME.json NAME.parquet                   figures and answers of an evaluation
    checkpoints/step_000120/{model,state}/         see zero2r1.checkpoint
    figures/*.png verdict.json
"""

from __future__ import annotations

import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary, finalize

try:
    import fcntl
except ImportError:  # no POSIX system
    fcntl = None  # type: ignore[assignment]

LOCK = "run.lock"


class RunDir:
    """A run folder that one process writes. Use :meth:`create`, :meth:`start` or :meth:`open`.

    One that was created or started keeps other processes out until :meth:`close`, or until the object or the process is gone.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: _Lock | None = None

    @classmethod
    def create(cls, root: Path, kind: str, *, command: Sequence[str], config: str, seed: int) -> RunDir:
        """A new folder ``ROOT/<date>_<time>_<kind>_<4 hex>``, locked, with everything known before the first step."""
        name = f"{time.strftime('%Y-%m-%d_%H%M')}_{kind}_{secrets.token_hex(2)}"
        return cls.start(root / name, command=command, config=config, seed=seed)

    @classmethod
    def start(cls, path: Path, *, command: Sequence[str], config: str, seed: int) -> RunDir:
        """Create or continue the folder at ``path``.

        Raises:
            ValueError: another living process writes to it, or it cannot be written.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _Lock.of(path)
        except OSError as error:
            raise ValueError(f"cannot create the run folder {path}: {error.strerror}. Choose another with --runs FOLDER") from error
        run = cls(path)
        run._held = lock
        if not (path / "run.json").exists():
            run.write_text("config.yaml", config)
            run.write_text("command.txt", " ".join(command) + "\n")
            run.write_json("env.json", environment(seed))
            if changes := _git("diff", "HEAD"):
                run.write_text("code.diff", changes + "\n")
        run.set_status("running")
        point_latest(path)
        return run

    def discard_if_empty(self) -> bool:
        """Remove the folder of a run that failed before it recorded anything, and let ``latest`` lead to the newest other run."""
        if any((self.path / name).exists() for name in ("metrics.jsonl", "ledger.json", "checkpoints", "evals", "samples", "work")):
            return False
        shutil.rmtree(self.path)
        others = [folder for folder in self.path.parent.iterdir() if (folder / "run.json").exists() and not folder.is_symlink()]
        if others:
            point_latest(max(others, key=lambda folder: (folder / "run.json").stat().st_mtime))
        else:
            (self.path.parent / "latest").unlink(missing_ok=True)
        return True

    @classmethod
    def open(cls, path: Path) -> RunDir:
        """Read an existing run; ``runs/latest`` works too.

        Raises:
            ValueError: there is no run at this path.
        """
        if path.is_file():  # a pointer, where links are not to be had
            path = path.parent / path.read_text(encoding="utf-8").strip()
        if not (path / "run.json").exists():
            raise ValueError(f"{path} is no run folder (it has no run.json)")
        return cls(path)

    def close(self, status: str, reason: str = "") -> None:
        """Record how the run ended and let others write."""
        self.set_status(status, reason)
        if self._held is not None:
            self._held.release()

    # Writing

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, target)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def set_status(self, status: str, reason: str = "") -> None:
        """``running``, ``done``, ``stopped`` or ``failed``."""
        self.write_json("run.json", {"status": status, "reason": reason, "pid": os.getpid()})

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """One line of ``metrics.jsonl``; a figure that is not finite is written as null and named in ``nonfinite``."""
        bad = [name for name, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
        clean = {**row, **dict.fromkeys(bad)}
        self._append("metrics.jsonl", {**clean, "nonfinite": bad} if bad else clean)

    def append_event(self, event: str, **details: Any) -> None:
        """One line of ``events.jsonl``, with the time of day."""
        self._append("events.jsonl", {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "event": event, **details})

    def append_event_once(self, event: str, **details: Any) -> None:
        """As :meth:`append_event`, where there is none of that name yet: what a continued run does not repeat."""
        if not any(known["event"] == event for known in self.events()):
            self.append_event(event, **details)

    def _append(self, name: str, value: Mapping[str, Any]) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(value, ensure_ascii=False) + "\n")

    def write_rollouts(self, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        self.write_table(f"rollouts/step_{step:06d}.parquet", rows)

    def write_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows as Parquet, whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + ".tmp")
        names = list(dict.fromkeys(key for row in rows for key in row))
        pq.write_table(pa.table({key: [row.get(key) for row in rows] for key in names}), temporary)
        os.replace(temporary, target)

    def truncate_after(self, step: int) -> None:
        """Forget metrics, rollouts and evaluations of later steps: a resumed run writes them again, to the same bytes."""
        metrics = self.path / "metrics.jsonl"
        if metrics.exists():
            kept = [line for line in _complete_lines(metrics) if json.loads(line)["step"] <= step]
            self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))
        for folder in ("rollouts", "evals"):
            for file in (self.path / folder).glob("step_*"):
                half_written = file.suffix == ".tmp"
                if half_written or int(file.stem.removeprefix("step_")) > step:
                    file.unlink()

    # Reading

    def metrics(self) -> list[dict[str, Any]]:
        """All complete lines of ``metrics.jsonl``; a last line cut off by a crash is left out."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in _complete_lines(path)] if path.exists() else []

    def events(self) -> list[dict[str, Any]]:
        """All complete lines of ``events.jsonl``."""
        path = self.path / "events.jsonl"
        return [json.loads(line) for line in _complete_lines(path)] if path.exists() else []

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """The completions of a step.

        Raises:
            ValueError: that step was not recorded; the message names the steps that were.
        """
        import pyarrow.parquet as pq

        path = self.path / "rollouts" / f"step_{step:06d}.parquet"
        if not path.exists():
            known = sorted(int(p.stem.removeprefix("step_")) for p in path.parent.glob("step_*.parquet"))
            span = f"steps {known[0]} to {known[-1]}" if known else "no step"
            raise ValueError(f"{self.path.name} has no rollouts of step {step}; it has {span}")
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows

    def read_json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text(encoding="utf-8"))


class _Lock:
    """The right to write a run folder, which one process has at a time: until :meth:`release`, or until nobody refers to the lock.

    What decides is ``flock`` on the open file, which ends with the process, however that ends. The file names the holder, for messages
    and for the report; its process id decides only on file systems without locks. Without ``fcntl`` whoever creates the file has the
    lock, and two processes that find the file of a dead one in the same moment may both take it over.
    """

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file, self._descriptor = file, descriptor
        self._close = finalize(self, os.close, descriptor)  # and no LOCK_UN: in a forked child that would unlock it for the parent

    @classmethod
    def of(cls, folder: Path) -> _Lock:
        """The lock of a folder. A process that has it already gets the same one again.

        Raises:
            ValueError: another process has it.
            OSError: the folder cannot be written.
        """
        file = folder.resolve() / LOCK
        lock = _HELD.get(file)
        if lock is None or not lock._close.alive or not _is_open_as(file, lock._descriptor):
            lock = _HELD[file] = cls(file, _create(file) if fcntl is None else _open_locked(file))
        lock._sign()
        return lock

    def release(self) -> None:
        """Let others write. A file that is another's by now stays."""
        if not self._close.alive:
            return
        if _is_open_as(self._file, self._descriptor):
            if fcntl is None:
                self._close()  # such systems remove no open file
            self._file.unlink(missing_ok=True)
        self._close()

    def _sign(self) -> None:
        text = json.dumps({"pid": os.getpid(), "host": platform.node()}, indent=1, ensure_ascii=False) + "\n"
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, os.write(self._descriptor, text.encode()))


_HELD: WeakValueDictionary[Path, _Lock] = WeakValueDictionary()
"""The locks of this process; ``flock`` would keep a second opening of the file out even here."""


def _open_locked(file: Path) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _taken(file) from None
            except OSError:  # a file system without locks: the process id has to do
                pass
            if _is_open_as(file, descriptor):
                _refuse_living(file)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it just before it was locked here


def _create(file: Path) -> int:
    while True:
        try:
            return os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            if not _holder(file):
                time.sleep(0.2)  # just created, and about to be signed
            _refuse_living(file)
            file.unlink(missing_ok=True)


def _refuse_living(file: Path) -> None:
    holder = _holder(file)
    pid = holder.get("pid")
    if holder.get("host") == platform.node() and pid != os.getpid() and alive(pid):
        raise _taken(file, f" (or remove {file} if process {pid} is another program by now)")


def _taken(file: Path, hint: str = "") -> ValueError:
    holder = _holder(file)
    who = f"process {holder['pid']}" if "pid" in holder else "another process"
    where = "this machine" if holder.get("host") in (None, platform.node()) else str(holder["host"])
    return ValueError(f"{file.parent} is being written by {who} on {where}. Wait for it, stop it, or give this run another --name{hint}")


def _holder(file: Path) -> dict[str, Any]:
    """Who signed the lock; nothing where it is gone, empty or spoilt."""
    try:
        holder = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_open_as(file: Path, descriptor: int) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.stat(file), os.stat(descriptor))
    except FileNotFoundError:
        return False


def environment(seed: int) -> dict[str, Any]:
    """Versions, machine and source revision: what someone needs to repeat the run."""
    packages = ("zero2r1", "torch", "transformers", "tokenizers", "numpy", "pyarrow", "pydantic")
    return {
        "seed": seed,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "cpu": _cpu_name(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "git": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        **{package: _version(package) for package in packages},
    }


def free_bytes(path: Path) -> int:
    return shutil.disk_usage(path).free


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def alive(pid: Any) -> bool:
    """Whether a process with this id runs on this machine."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _complete_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file if line.endswith("\n"))


def point_latest(path: Path) -> None:
    """Let ``latest`` beside ``path`` lead to it: a link, or a file with its name where links are not to be had."""
    link = path.parent / "latest"
    try:
        temporary = link.with_name("latest.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(path.name)
        os.replace(temporary, link)
    except OSError:
        link.write_text(path.name, encoding="utf-8")
