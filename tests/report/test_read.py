"""Reading a run: what its files say, how it ended, and nothing where there is nothing."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.report.made_up_run import HOSTILE, rollout, write_json, write_ledger, write_pipeline, write_rows, write_stage
from zero2r1.report.read import read_run
from zero2r1.report.values import Estimate, checkpoint_title, probe_step


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_pipeline(tmp_path / "made-up")


def dead_pid() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def interrupt(run: Path, *, pid: int, host: str) -> None:
    """The files of a run that its process left without a word during stage 4."""
    write_json(run / "run.json", {"status": "running", "reason": "", "pid": pid})
    write_json(run / "run.lock", {"pid": pid, "host": host})
    write_ledger(run, reasoning_rl="running", no_language="not run", rejection_sft="waiting")


def test_a_finished_run_is_read_whole(run: Path) -> None:
    record = read_run(run)
    assert (record.state, record.seed, record.size, record.pipeline, record.laptop) == ("done", 3, "standard", True, True)
    assert [(stage.name, stage.number, stage.seconds) for stage in record.stages][:2] == [("base", 1, 60.0), ("zero", 2, 120.0)]
    assert list(record.evaluations) == ["base", "base_web", "zero", "dev1", "dev2", "dev2_no_language", "dev3"]
    assert record.evaluations["zero"].get("pass@1") == Estimate(mean=0.75, error=0.02)
    assert [stage.is_rl for stage in record.stages] == [False, True, False, True, True, False]
    assert [stage.name for stage in record.rl_stages] == ["zero", "reasoning-rl"]  # the ablation is a control
    assert record.unreadable == ()


def test_accuracy_by_kind_of_problem_is_a_mean_over_problems(run: Path) -> None:
    # Of the four problems the two of kind `sum` are right in both samples, those of kind `pair` in none: 1 ± 0 and 0 ± 0.
    assert read_run(run).evaluations["zero"].tasks == {"sum": Estimate(mean=1.0, error=0.0), "pair": Estimate(mean=0.0, error=0.0)}


def test_transcripts_follow_their_rules(run: Path) -> None:
    first, checked, worst = read_run(run).transcripts
    assert first.response == "rollout 1/0/1"
    assert checked.response == HOSTILE and checked.note.startswith("step 2, group 0, sample 0")
    # 2/1/1 earned 9 but was not graded; of the two wrong answers with 0.5 the earlier counts.
    assert worst.response == "rollout 2/0/1" and "reward 0.5 (accuracy 0, format 1)" in worst.note


def test_a_rule_that_finds_nothing_says_so(run: Path) -> None:
    folder = run / "stages/02-zero/rollouts"
    shutil.rmtree(folder)
    assert {transcript.note for transcript in read_run(run).transcripts} == {"No rollouts were recorded."}
    write_rows(folder / "step_000001.parquet", [rollout(1, 0, 0, accuracy=0.0, reward=0.0)])
    found = read_run(run).transcripts
    assert [transcript.response for transcript in found] == [None, None, None]  # a wrong answer that earned nothing is no hack
    assert {transcript.note for transcript in found} == {"None among the rollouts of 1 recorded steps."}


def test_one_question_is_followed_through_all_checkpoints(run: Path) -> None:
    (run / "stages/03-cold-start/evals/dev1.parquet").unlink()
    asked = read_run(run).held_out
    assert asked is not None and (asked.problem, asked.question, asked.gold) == ("p0", "question 0", "7")
    assert [(answer.checkpoint, answer.text) for answer in asked.answers[2:5]] == [
        ("zero", "zero/0/0"),
        ("dev1", None),
        ("dev2", "dev2/0/0"),
    ]
    assert (asked.answers[0].right, asked.answers[0].tokens) == (True, 10)


def test_the_first_sample_every_rule_refused_is_kept(run: Path) -> None:
    stage = read_run(run).stage("rejection-sft")
    assert stage is not None and stage.funnel is not None
    assert stage.funnel.stations[0] == ("sampled", 400) and stage.funnel.mixed == {"reasoning": 120, "general": 40}
    examples = {example.rule: example for example in stage.funnel.examples}
    assert set(examples) == {"wrong", "mixed_language"}
    assert examples["wrong"].response == "thought 0\n\nit is 8" and examples["wrong"].question == "ask 0"


def test_a_claim_that_was_not_judged_says_why(run: Path) -> None:
    claims = read_run(run).claims
    assert claims is not None and [claim.holds for claim in claims] == [True, False, None]
    assert claims[2].reason == "R1 not measured: its stage was not run"
    (run / "verdict.json").unlink()
    assert read_run(run).claims is None


def test_a_run_whose_process_is_gone_was_killed_and_one_whose_process_lives_is_running(run: Path) -> None:
    interrupt(run, pid=dead_pid(), host=platform.node())
    assert read_run(run).state == "killed"
    assert [stage.state for stage in read_run(run).stages] == ["done", "done", "done", "killed", "not run", "not run"]
    interrupt(run, pid=os.getpid(), host=platform.node())
    assert read_run(run).state == "running"
    assert [stage.state for stage in read_run(run).stages][3:] == ["running", "not run", "waiting"]
    interrupt(run, pid=os.getpid(), host="another machine")
    assert read_run(run).state == "unknown"


def test_a_run_whose_stages_are_all_done_is_done_before_its_last_line_is_written(run: Path) -> None:
    interrupt(run, pid=os.getpid(), host=platform.node())
    write_ledger(run, rejection_sft="not run")
    assert read_run(run).state == "done"


def test_without_a_ledger_the_folders_of_the_stages_are_read(run: Path) -> None:
    (run / "ledger.json").unlink()
    write_json(run / "stages/04-reasoning-rl.old1/run.json", {"status": "done", "reason": "", "pid": 1})  # an earlier attempt
    (run / "stages/latest").symlink_to("05-no-language")
    record = read_run(run)
    assert [(stage.name, stage.number, stage.state) for stage in record.stages][2:] == [
        ("cold-start", 3, "done"),
        ("reasoning-rl", 4, "done"),
        ("no-language", 5, "done"),
        ("rejection-sft", 6, "done"),
    ]


def test_a_ledger_cannot_lead_out_of_the_run(run: Path, tmp_path: Path) -> None:
    write_stage(tmp_path / "elsewhere" / "02-zero")
    write_json(run / "ledger.json", {"stages": [{"name": "zero", "folder": "../elsewhere/02-zero", "status": "done"}]})
    (stage,) = read_run(run).stages
    assert stage.folder == "stages/02-zero"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("02-zero", "zero"), ("03-cold-start", "cold-start"), ("04-reasoning-rl", "reasoning-rl"), ("05-no-language", "no-language")],
)
def test_a_stage_alone_is_a_run(run: Path, name: str, expected: str) -> None:
    record = read_run(run / "stages" / name)
    assert not record.pipeline and [stage.name for stage in record.stages] == [expected]


def test_steps_asked_for_stand_in_the_stage_or_in_its_section_of_the_pipeline(run: Path) -> None:
    (run / "stages/04-reasoning-rl/config.yaml").write_text('{"seed": 0, "reasoning_rl": {"steps": 30}}', encoding="utf-8")
    (run / "stages/05-no-language/config.yaml").write_text('{"reasoning_rl": {"steps": 30}, "no_language": true}', encoding="utf-8")
    assert [stage.steps for stage in read_run(run).stages] == [6, 6, 6, 30, 30, 6]


def test_a_stage_that_stopped_gives_the_reason_the_run_does_not(run: Path) -> None:
    write_json(run / "run.json", {"status": "stopped", "reason": "", "pid": 1})
    write_json(run / "stages/03-cold-start/run.json", {"status": "stopped", "reason": "12 samples wait for a decision", "pid": 1})
    write_ledger(run, cold_start="running", reasoning_rl="waiting", no_language="waiting", rejection_sft="waiting")
    record = read_run(run)
    assert (record.state, record.reason) == ("stopped", "12 samples wait for a decision")
    assert [stage.state for stage in record.stages] == ["done", "done", "stopped", "not run", "not run", "not run"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no run folder"):
        read_run(tmp_path)


def test_checkpoints_have_the_names_of_the_paper_and_probes_have_steps() -> None:
    assert [checkpoint_title(name) for name in ("zero", "base_web", "dev2_no_language", "mine")] == [
        "R1-Zero", "Base (web)", "Dev2 (no language)", "mine",
    ]  # fmt: skip
    assert [probe_step(name) for name in ("step_000018", "zero", "step_", "000018")] == [18, None, None, None]
