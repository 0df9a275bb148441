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

LOCK = "run.lock"


class RunDir:
    """A run folder that one process writes. Use :meth:`create` or :meth:`open`; release it with :meth:`close`."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        except OSError as error:
            raise ValueError(f"cannot create the run folder {path}: {error.strerror}. Choose another with --runs FOLDER") from error
        run = cls(path)
        run._lock()
        if not (path / "run.json").exists():
            run.write_text("config.yaml", config)
            run.write_text("command.txt", " ".join(command) + "\n")
            run.write_json("env.json", environment(seed))
            if changes := _git("diff", "HEAD"):
                run.write_text("code.diff", changes + "\n")
        run.set_status("running")
        point_latest(path)
        return run

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
        (self.path / LOCK).unlink(missing_ok=True)

    def _lock(self) -> None:
        lock = self.path / LOCK
        if lock.exists():
            holder = json.loads(lock.read_text(encoding="utf-8"))
            if holder["host"] == platform.node() and _alive(holder["pid"]) and holder["pid"] != os.getpid():
                raise ValueError(
                    f"{self.path} is being written by process {holder['pid']} on this machine. "
                    "Wait for it, stop it, or give this run another --name"
                )
        self.write_json(LOCK, {"pid": os.getpid(), "host": platform.node()})

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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
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
