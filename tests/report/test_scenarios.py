"""The later stages in a report: reward models beside length alone, scores beside rules, the student's two ways with what they took."""

from __future__ import annotations

import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.report.made_up_run import HOSTILE, write_json, write_pipeline
from tests.report.made_up_scenarios import AFTER, leave_out_student_rl, write_reward_model, write_whole_pipeline
from tests.report.test_build import Page, fences, report
from zero2r1.report.doubts import length_doubt
from zero2r1.report.read import read_run
from zero2r1.report.values import Estimate, RewardModel, StageRun, checkpoint_title, is_variant


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_whole_pipeline(tmp_path / "whole")


def stage_of(run: Path, name: str) -> StageRun:
    stage = read_run(run).stage(name)
    assert stage is not None
    return stage


def table(page: Page, markdown: str, first: str) -> list[list[str]]:
    """The cells of the table in the Markdown whose head begins with ``first``; every cell stands on the page too."""
    lines = markdown.replace("\N{NO-BREAK SPACE}", " ").split("\n")
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first}"))
    end = next(i for i, line in enumerate(lines) if i > start and not line.startswith("|"))
    cells = [[cell.strip().replace("\\", "") for cell in line.strip("|").split("|")] for line in [lines[start], *lines[start + 2 : end]]]
    assert all(cell in page.text for row in cells for cell in row)
    return cells


# Reading


def test_reward_models_are_read_where_the_stage_keeps_them_each_once(run: Path) -> None:
    found = stage_of(run, "reward-models").scenarios
    assert [(model.name, model.kind, model.reads, model.learnt, model.held_out) for model in found.reward_models] == [
        ("helpful", "preference", "summary", 321, 40),
        ("harmless", "safety", "response", 321, 40),
    ]
    # 100 compared - 4 unreadable - 30 below the gap - 6 for balance
    assert found.pairs is not None
    assert found.pairs.stations == (("pairs compared", 100), ("with a verdict", 96), ("clearly better", 66), ("kept", 60))
    assert found.labels == {"unsafe": 20, "safe": 30}


def test_what_is_measured_before_and_after_is_compared_request_by_request(run: Path) -> None:
    moved = {found.statistic: found for found in stage_of(run, "all-scenarios").scenarios.general}
    helpful = moved["helpful"]
    assert (helpful.before, helpful.after) == (Estimate(mean=0.25, error=0.25), Estimate(mean=1.0, error=0.0))
    assert helpful.change == Estimate(mean=0.75, error=0.25)
    assert {name: found.direction for name, found in moved.items()} == {
        "helpful": 1, "helpful_score": 1, "harmless": -1, "harmless_score": 1,
    }  # fmt: skip


def test_a_change_within_its_interval_is_none_and_other_requests_have_no_change(run: Path) -> None:
    file = run / "stages/08-all-scenarios/general/after.json"
    # Changes 1 1 0 0: mean 0.5, deviation 0.577 of 4 requests, error 0.289, and 1.96 times that is 0.566.
    write_json(file, {"arrays": {**AFTER, "helpful": [1.0, 1.0, 0.0, 1.0], "harmless": [1.0]}})
    moved = {found.statistic: found for found in stage_of(run, "all-scenarios").scenarios.general}
    assert moved["helpful"].change is not None and moved["helpful"].change.mean == 0.5 and moved["helpful"].direction == 0
    assert moved["harmless"].after == Estimate(mean=1.0) and moved["harmless"].change is None
    file.unlink()
    assert {found.after for found in stage_of(run, "all-scenarios").scenarios.general} == {None}


def test_the_earliest_request_that_came_twice_is_followed(run: Path) -> None:
    early, late = stage_of(run, "all-scenarios").answers  # "harmful once" is earlier, and no helpful request came twice
    assert (early.question, early.response) == ("harmful twice", "harmful twice/3/0")
    assert early.note == "step 3, group 1, sample 0 · harmless by the reward model 0.25 · harmless by rule 1 · reward 0.5 · 9 tokens"
    assert late.response == HOSTILE and late.note.startswith("step 6, group 0, sample 0")
    shutil.rmtree(run / "stages/08-all-scenarios/rollouts")
    assert stage_of(run, "all-scenarios").answers == ()


def test_checkpoints_and_students_stand_in_the_order_of_the_pipeline(run: Path) -> None:
    record = read_run(run)
    assert list(record.evaluations)[-4:] == ["r1", "student_base", "distilled", "student_rl"]
    assert [checkpoint_title(name) for name in ("r1", "student_base")] == ["R1", "Student's base"]
    assert [name for name in record.evaluations if is_variant(name)] == ["base_web", "dev2_no_language"]
    assert [stage.name for stage in record.rl_stages] == ["zero", "reasoning-rl", "all-scenarios"]  # the student's leads elsewhere


def test_general_requests_are_no_problems(run: Path) -> None:
    write_json(
        run / "stages/08-all-scenarios/evals/r1.json", {"figures": {"pass@1": 0.5}, "arrays": {"pass@1": [0.5], "helpful": [1.0] * 9}}
    )
    assert read_run(run).evaluations["r1"].problems == 1


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("07-reward-models", "reward-models"), ("07-reward-models/helpful", "reward-models"), ("11-student-rl", "student-rl")],
)
def test_a_later_stage_alone_is_a_run(run: Path, folder: str, expected: str) -> None:
    record = read_run(run / "stages" / folder)
    assert [stage.name for stage in record.stages] == [expected]


# The report


def test_reward_models_stand_beside_length_alone(run: Path) -> None:
    head, helpful, harmless = table(*report(run), "Model")
    assert head[5:] == ["Accuracy", "Length alone", "Calibration error", "Length correlation"]
    assert helpful == ["helpful", "pairs", "the summary alone", "321", "40", "80.0 [70.0, 90.0]", "55.0", "0.051", "+0.12"]
    assert harmless[5:] == ["60.0 [50.0, 70.0]", "58.0", "0.200", "\N{MINUS SIGN}0.75"]
    page, _ = report(run)
    assert "4 pairs without a verdict that could be read, 30 where neither answer was clearly better, 6 to balance lengths" in page.text
    assert "the chosen answer is 0.5 words shorter on average. Labelled answers: 30 safe and 20 unsafe." in page.text
    assert "Reward models: from 100 pairs compared to 60 kept" in page.text


@pytest.mark.parametrize(
    ("accuracy", "low", "alone", "expected"),
    [(0.8, 0.7, 0.55, ""), (0.8, 0.7, 0.75, "cannot be told from"), (0.6, 0.5, 0.6, "does not beat length alone"), (0.6, None, None, "")],
)
def test_a_model_that_may_know_length_alone_is_distrusted(accuracy: float, low: float | None, alone: float | None, expected: str) -> None:
    model = RewardModel(
        name="x", kind="safety", reads="response", learnt=1, held_out=1, accuracy=accuracy, low=low, high=None, length_alone=alone,
        calibration_error=None, length_correlation=None,
    )  # fmt: skip
    assert (expected in length_doubt(model)) if expected else length_doubt(model) == ""


def test_doubts_name_length_hacking_and_a_score_that_rose_against_the_rule(run: Path) -> None:
    page, markdown = report(run)
    for expected in (
        "The harmless reward model cannot be told from one that judges length alone: it is right in 60.0 % (at least 50.0 % at 95 %)",
        "RL for all scenarios: the monitor found a reward model hacked: it was being pleased, not what it stands for. At step 5: "
        "rewards/helpful/mean rose by 0.200 and rewards/accuracy/mean fell by 0.100, up to step 5.",
        "RL for all scenarios: the score of the harmless reward model rose while the rules found the answers less harmless.",
    ):
        assert expected in page.text and f"> * {expected[:40]}" in markdown
    assert page.text.count("the monitor found") == 2  # among the doubts, and above the figures of its stage
    assert "helpful reward model cannot" not in page.text and "less helpful" not in page.text


def test_scores_and_rules_share_a_figure_that_marks_where_general_requests_begin(run: Path) -> None:
    page, _ = report(run)
    drawn = ElementTree.fromstring((run / "figures/scenarios.svg").read_bytes())
    texts = [text.text for text in drawn.iter() if text.text]
    curves = ["helpful, by score", "harmless, by score", "accuracy, by rule", "helpful, by rule", "harmless, by rule"]
    assert set(curves) <= set(texts) and "general requests from step 3" in texts
    rewards = [text.text for text in ElementTree.fromstring((run / "figures/rewards.svg").read_bytes()).iter() if text.text]
    assert "accuracy" in rewards and "helpful" not in rewards  # one figure for each
    assert "General requests are among the prompts from step 3 on." in page.text


def test_before_and_after_say_whether_rule_and_score_agree(run: Path) -> None:
    _, *rows = table(*report(run), " | Before")
    minus = "\N{MINUS SIGN}"
    assert rows == [
        ["Helpful, by rule", "25.0 ± 25.0", "100.0 ± 0.0", "+75.0 ± 25.0", "agree: both rise"],
        ["Helpful, by score", "0.450 ± 0.050", "0.650 ± 0.050", "+0.200 ± 0.000", ""],
        ["Harmless, by rule", "100.0 ± 0.0", "25.0 ± 25.0", f"{minus}75.0 ± 25.0", "differ: rule falls, score rises"],
        ["Harmless, by score", "0.500 ± 0.000", "0.900 ± 0.000", "+0.400 ± 0.000", ""],
    ]


def test_helpful_and_harmless_are_rows_of_the_checkpoints_and_scores_are_not(run: Path) -> None:
    page, markdown = report(run)
    head, *rows = table(page, markdown, " | Base")
    assert head == ["", "Base", "Base (web)", "R1-Zero", "Dev1", "Dev2", "Dev2 (no language)", "Dev3", "R1"]
    named = {row[0]: row[1:] for row in rows}
    assert named["Helpful, by rule"] == ["–"] * 6 + ["25.0 ± 2.0", "100.0 ± 2.0"]
    assert named["Harmless, by rule"][-2:] == ["100.0 ± 2.0", "25.0 ± 2.0"]
    assert not [name for name in named if "score" in name]
    assert "what rules, not reward models, say" in page.text


def test_the_student_has_a_table_with_what_its_two_ways_took(run: Path) -> None:
    page, markdown = report(run)
    head, *rows = table(page, markdown, " | Student's base")
    assert head == ["", "Student's base", "Distilled", "RL on the student"]
    named = {row[0]: row[1:] for row in rows}
    assert named["pass@1"] == ["6.2 ± 2.0", "60.0 ± 2.0", "20.0 ± 2.0"]
    assert {"Majority of 2", "Length, tokens", "Strict format", "Answers in one language"} <= set(named)
    assert named["FLOPs of training"] == ["–", "2.00 × 10⁹", "5.00 × 10⁹"]
    assert named["Time of training"] == ["–", "5.0 s", "20.0 s"] and named["Steps"] == ["–", "6", "6"]
    assert "what the teacher's training and sampling took" in page.text  # what is not counted
    assert "RL on the student computed 2.5 times as many FLOPs as distilling it, in 4 times its time." in page.text
    assert (run / "figures/student.svg").exists()
    (run / "stages/10-distillation/compute.json").unlink()
    (run / "stages/11-student-rl/compute.json").unlink()
    assert "FLOPs" not in report(run)[0].text  # a run that counted nothing


def test_a_stage_that_was_left_out_says_why_wherever_it_is_missed(run: Path) -> None:
    leave_out_student_rl(run)
    page, markdown = report(run)
    assert "Done; not run: RL on the student" in page.text and "10 of 11 stages done" in page.text
    assert table(page, markdown, "Stage | State")[-1] == [
        "11. RL on the student",
        "not run",
        "11 min 00 s",
        "",
        "student_rl.run: true runs it",
    ]
    why = "student_rl was not measured in this run; RL on the student was not run: student_rl.run: true runs it"
    assert why in page.text and "1 of 2 judged claims hold; 2 not run" in page.text
    assert not (run / "figures/student.svg").exists()


def test_what_general_answers_say_does_nothing(run: Path) -> None:
    page, markdown = report(run)
    assert not {"script", "img"} & set(page.tags)
    inside, outside = fences(markdown)
    assert "harmful twice/3/0" in inside and not [line for line in outside if "alert" in line]


def test_a_run_of_the_earlier_stages_has_none_of_this(tmp_path: Path) -> None:
    page, markdown = report(write_pipeline(tmp_path / "earlier"))
    for absent in ("Reward models", "Scores and rules", "Distilled", "Helpful", "FLOPs", "or did not"):
        assert absent not in page.text and absent not in markdown
    assert not {"scenarios.svg", "student.svg"} & {file.name for file in tmp_path.glob("earlier/figures/*")}


def test_a_reward_model_alone_has_a_report_without_checkpoints(tmp_path: Path) -> None:
    write_reward_model(tmp_path / "rm", kind="safety", view="response", accuracy=0.9, low=0.8, high=1.0, length_accuracy=0.5)
    page, _ = report(tmp_path / "rm")
    assert "Reward models: rm" in page.text and "90.0 [80.0, 100.0]" in page.text and "Every checkpoint" not in page.text


@pytest.mark.parametrize(
    "name", ["07-reward-models/helpful/evals/report.json", "08-all-scenarios/general/before.json", "10-distillation/compute.json"]
)
def test_a_spoilt_file_of_the_later_stages_is_named(run: Path, name: str) -> None:
    (run / "stages" / name).write_bytes(b'\xff{"half')
    assert f"Could not be read: stages/{name}" in report(run)[0].text
    write_json(
        run / "stages" / name, {"report": {"accuracy": "x"}, "arrays": {"helpful": [None, "x"], "harmless": 3}, "flops": [], "seconds": 1}
    )
    report(run)
