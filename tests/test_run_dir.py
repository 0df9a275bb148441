"""The run folder: never shared, whole or absent, and after a resume the same bytes as without one."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import multiprocessing
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from zero2r1 import run_dir
from zero2r1.run_dir import RunDir, environment

ROUNDS, RIVALS = 10, 4
HOLDER = """
import sys
from pathlib import Path
from zero2r1.run_dir import RunDir
run = RunDir.start(Path(sys.argv[1]), command=[], config="", seed=0)
print("has it", flush=True)
sys.stdin.read()
"""


def start(path: Path) -> RunDir:
    return RunDir.start(path, command=["zero2r1", "train", "zero"], config="steps: 3  # default\n", seed=7)


def dead_pid() -> int:
    """The id of a process that has ended and was waited for."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_new_folder_is_named_by_date_kind_and_four_hex_digits(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "runs", "demo", command=["zero2r1", "demo"], config="a: 1\n", seed=3)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d{4}_demo_[0-9a-f]{4}", run.path.name)
    assert (run.path / "config.yaml").read_text() == "a: 1\n"
    assert (run.path / "command.txt").read_text() == "zero2r1 demo\n"
    assert run.read_json("run.json") == {"status": "running", "reason": "", "pid": os.getpid()}
    assert run.read_json("env.json")["seed"] == 3
    assert (tmp_path / "runs" / "latest").resolve() == run.path.resolve()


def test_latest_moves_to_the_newest_run_and_opens_it(tmp_path: Path) -> None:
    start(tmp_path / "one")
    second = start(tmp_path / "two")
    assert RunDir.open(tmp_path / "latest").path.resolve() == second.path.resolve()


def test_latest_may_be_a_text_file_where_links_are_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: object, target_is_directory: bool = False) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    run = start(tmp_path / "one")
    assert not (tmp_path / "latest").is_symlink()
    assert RunDir.open(tmp_path / "latest").path == run.path


def test_opening_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run folder"):
        RunDir.open(tmp_path)


def test_a_folder_another_living_process_writes_to_is_refused(tmp_path: Path) -> None:
    start(tmp_path / "run")
    holder = {"pid": os.getppid(), "host": platform.node()}
    (tmp_path / "run" / "run.lock").write_text(json.dumps(holder))
    with pytest.raises(ValueError, match=f"is being written by process {os.getppid()} on this machine"):
        start(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.lock").read_text()) == holder


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    start(tmp_path / "run")
    (tmp_path / "run" / "run.lock").write_text(json.dumps({"pid": dead_pid(), "host": platform.node()}))
    again = start(tmp_path / "run")
    assert again.read_json("run.lock") == {"pid": os.getpid(), "host": platform.node()}


def holder_of(path: Path) -> subprocess.Popen[str]:
    """Another process that writes to the folder until its standard input ends."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "has it\n"
    return process


def compete(root: Path, barrier: Any, outcomes: Any) -> None:
    """Start folder after folder in the same moment as the rivals; each is held until all have tried."""
    for number in range(ROUNDS):
        barrier.wait(60)
        run = None
        try:
            run = start(root / f"run_{number}")
            outcomes.put((number, "has it"))
        except ValueError as error:
            outcomes.put((number, "refused" if "is being written by" in str(error) else str(error)))
        except Exception as error:  # what a rival dies of is an outcome too
            outcomes.put((number, repr(error)))
        barrier.wait(60)
        if run is not None:
            run.close("done")


def test_of_processes_that_start_together_one_gets_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, outcomes = context.Barrier(RIVALS), context.Queue()
    rivals = [context.Process(target=compete, args=(tmp_path, barrier, outcomes)) for _ in range(RIVALS)]
    for rival in rivals:
        rival.start()
    found: dict[int, list[str]] = {}
    for _ in range(ROUNDS * RIVALS):
        number, outcome = outcomes.get(timeout=60)
        found.setdefault(number, []).append(outcome)
    for rival in rivals:
        rival.join(60)
    assert {number: sorted(seen) for number, seen in found.items()} == {
        number: ["has it"] + ["refused"] * (RIVALS - 1) for number in range(ROUNDS)
    }


@pytest.mark.parametrize("left", ["", "{", json.dumps({"pid": 999_999_999, "host": "elsewhere"})])
def test_what_keeps_others_out_is_the_living_process_and_not_what_its_file_says(tmp_path: Path, left: str) -> None:
    holder = holder_of(tmp_path / "run")
    try:
        with pytest.raises(ValueError, match=f"is being written by process {holder.pid} on this machine"):
            start(tmp_path / "run")
        (tmp_path / "run" / "run.lock").write_text(left)
        with pytest.raises(ValueError, match="is being written by"):
            start(tmp_path / "run")
    finally:
        holder.kill()
        holder.communicate()
    assert start(tmp_path / "run").read_json("run.lock")["pid"] == os.getpid(), "a kill releases it"


def test_a_process_may_start_its_folder_again_and_the_other_object_releases_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    first = start(tmp_path / "run")
    second = start(tmp_path / "run")
    second.close("done")
    assert not (tmp_path / "run" / "run.lock").exists()
    holder = holder_of(tmp_path / "run")
    try:
        first.close("stopped")
        assert first.read_json("run.lock")["pid"] == holder.pid
        with pytest.raises(ValueError, match="is being written by"):
            start(tmp_path / "run")
    finally:
        holder.communicate()


def test_reading_a_run_releases_nothing(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.read_json("run.lock")
    RunDir.open(tmp_path / "run").close("done")
    process = subprocess.run([sys.executable, "-c", HOLDER, str(tmp_path / "run")], capture_output=True, text=True, input="")
    assert f"is being written by process {os.getpid()} on this machine" in process.stderr


def test_on_a_file_system_without_locks_the_process_id_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_dir.fcntl, "flock", refuse)
    start(tmp_path / "run").close("done")
    (tmp_path / "run" / "run.lock").write_text(json.dumps({"pid": os.getppid(), "host": platform.node()}))
    with pytest.raises(ValueError, match=f"is being written by process {os.getppid()} on this machine.*or remove .*run.lock"):
        start(tmp_path / "run")


def test_a_system_without_file_locks_creates_the_file_or_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_dir, "fcntl", None)
    run = start(tmp_path / "run")
    start(tmp_path / "run").close("done")
    assert not (tmp_path / "run" / "run.lock").exists()
    for pid, taken in ((dead_pid(), False), (os.getppid(), True)):
        (tmp_path / "run" / "run.lock").write_text(json.dumps({"pid": pid, "host": platform.node()}))
        if taken:
            with pytest.raises(ValueError, match=f"is being written by process {pid}"):
                start(tmp_path / "run")
        else:
            run = start(tmp_path / "run")
            assert run.read_json("run.lock")["pid"] == os.getpid()
            run.close("done")


def test_closing_records_the_end_and_releases_the_folder(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.close("failed", "W310 signal")
    assert run.read_json("run.json")["status"] == "failed" and run.read_json("run.json")["reason"] == "W310 signal"
    assert not (run.path / "run.lock").exists()


def test_continuing_a_run_keeps_what_it_was_started_with(tmp_path: Path) -> None:
    start(tmp_path / "run").close("stopped")
    again = RunDir.start(tmp_path / "run", command=["other"], config="steps: 99\n", seed=8)
    assert (again.path / "config.yaml").read_text() == "steps: 3  # default\n"
    assert (again.path / "command.txt").read_text() == "zero2r1 train zero\n"
    assert again.read_json("env.json")["seed"] == 7
    assert again.read_json("run.json")["status"] == "running"


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot create the run folder"):
        RunDir.create(tmp_path / "file", "zero", command=[], config="", seed=0)


def test_metrics_keep_every_digit_and_land_at_once(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    row = {"step": 1, "reward": 0.1 + 0.2, "tiny": 5e-324, "large": 1.7976931348623157e308, "note": "가"}
    run.append_metrics(row)
    assert (run.path / "metrics.jsonl").read_text(encoding="utf-8").endswith("}\n")
    assert run.metrics() == [row]


def test_a_figure_that_is_not_finite_becomes_null_and_is_named(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.append_metrics({"step": 1, "loss": math.nan, "kl": -math.inf, "reward": 1.0})
    assert run.metrics() == [{"step": 1, "loss": None, "kl": None, "reward": 1.0, "nonfinite": ["loss", "kl"]}]
    assert "NaN" not in (run.path / "metrics.jsonl").read_text()


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.append_metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "rew')
    assert run.metrics() == [{"step": 1}]


def test_a_run_without_metrics_yet_has_none(tmp_path: Path) -> None:
    assert start(tmp_path / "run").metrics() == []


def test_events_carry_the_time_of_day(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.append_event("checkpoint", step=3)
    event = json.loads((run.path / "events.jsonl").read_text())
    assert event["event"] == "checkpoint" and event["step"] == 3
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", event["time"])


def test_rollouts_read_back_as_they_were_written(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    rows = [{"text": "<think>가\n</think>", "ids": [1, 2], "reward": 0.5}, {"text": "", "ids": [3], "reward": None, "late": 1}]
    run.write_rollouts(120, rows)
    assert [path.name for path in (run.path / "rollouts").iterdir()] == ["step_000120.parquet"]
    assert run.rollouts(120) == [{**rows[0], "late": None}, rows[1]]


def test_asking_for_a_step_that_was_not_recorded_names_those_that_were(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    with pytest.raises(ValueError, match="no rollouts of step 5; it has no step"):
        run.rollouts(5)
    run.write_rollouts(10, [{"a": 1}])
    run.write_rollouts(20, [{"a": 1}])
    with pytest.raises(ValueError, match="no rollouts of step 5; it has steps 10 to 20"):
        run.rollouts(5)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = start(tmp_path / "run")
    run.write_text("verdict.json", "old")
    run.write_rollouts(1, [{"a": 1}])
    before = (run.path / "rollouts" / "step_000001.parquet").read_bytes()

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError):
        run.write_text("verdict.json", "new")
    assert (run.path / "verdict.json").read_text() == "old"
    monkeypatch.setattr(pq, "write_table", lambda table, path: Path(path).write_bytes(b"half"))
    with contextlib.suppress(OSError):  # whether a lost log stops a run is another question; the old file stays in any case
        run.write_rollouts(1, [{"a": 2}])
    assert (run.path / "rollouts" / "step_000001.parquet").read_bytes() == before


def test_after_a_resume_the_curve_has_the_bytes_of_an_uninterrupted_run(tmp_path: Path) -> None:
    def write(run: RunDir, steps: range) -> None:
        for step in steps:
            run.append_metrics({"step": step, "reward": step / 3})
            run.write_rollouts(step, [{"step": step}])
            run.write_json(f"evals/step_{step:06d}.json", {"pass@1": step / 7})
            run.write_table(f"evals/step_{step:06d}.parquet", [{"step": step}])

    straight, killed = start(tmp_path / "straight"), start(tmp_path / "killed")
    write(straight, range(1, 7))
    write(killed, range(1, 6))  # the checkpoint lies at step 3; 4 and 5 were done but not saved
    with (killed.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "rew')  # killed inside a line
    killed.truncate_after(3)
    names = ["step_000001.parquet", "step_000002.parquet", "step_000003.parquet"]
    assert sorted(path.name for path in (killed.path / "rollouts").iterdir()) == names
    assert sorted(path.name for path in (killed.path / "evals").glob("*.parquet")) == names
    assert [row["step"] for row in killed.metrics()] == [1, 2, 3]
    write(killed, range(4, 7))
    for name in ("metrics.jsonl", "rollouts/step_000005.parquet", "evals/step_000006.json"):
        assert (killed.path / name).read_bytes() == (straight.path / name).read_bytes()


def test_evaluations_outside_the_curve_survive_a_resume(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.write_json("evals/base.json", {})
    run.write_json("evals/step_000005.json", {})
    run.truncate_after(0)
    assert [path.name for path in (run.path / "evals").iterdir()] == ["base.json"]


def test_forgetting_is_harmless_before_anything_was_written(tmp_path: Path) -> None:
    run = start(tmp_path / "run")
    run.truncate_after(0)
    assert run.metrics() == []


def test_the_environment_names_versions_and_machine() -> None:
    found = environment(5)
    assert found["seed"] == 5
    assert found["python"] == platform.python_version()
    assert found["torch"].startswith("2.") and found["transformers"].startswith("5.")
    assert found["cpu_count"] >= 1
    json.dumps(found)


def test_files_half_written_at_a_kill_do_not_stop_a_resumption(tmp_path):
    run = RunDir.create(tmp_path, "zero", command=[], config="", seed=0)
    for name in ("step_000018.json.tmp", "step_000018.parquet.tmp", "step_000017.json", "step_000019.json", "base.json"):
        run.write_text(f"evals/{name}", "{}")
    run.truncate_after(18)
    assert sorted(path.name for path in (run.path / "evals").iterdir()) == ["base.json", "step_000017.json"]


def test_a_run_that_recorded_nothing_leaves_no_trace(tmp_path: Path) -> None:
    before = RunDir.create(tmp_path, "zero", command=[], config="", seed=0)
    before.append_metrics({"step": 1})
    before.close("done")
    failed = RunDir.create(tmp_path, "zero", command=[], config="", seed=0)
    failed.close("failed", "no such model")
    assert not before.discard_if_empty() and failed.discard_if_empty()
    assert not failed.path.exists() and RunDir.open(tmp_path / "latest").path.resolve() == before.path.resolve()


def test_where_no_run_is_left_there_is_no_latest(tmp_path: Path) -> None:
    only = RunDir.create(tmp_path, "zero", command=[], config="", seed=0)
    only.close("failed")
    assert only.discard_if_empty() and list(tmp_path.iterdir()) == []
