"""The command line, as a user types it: what it prints, what it refuses, what a second run of a name does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tests.pipeline.tiny_stage import SMALL, untrained
from tests.rollout.stub_server import answers, refusal
from zero2r1 import cli
from zero2r1.cli.settings import ALGORITHM_NAMES, guarded
from zero2r1.grpo.config import ALGORITHMS
from zero2r1.pipeline.chunks import StageStopped
from zero2r1.run_dir import RunDir
from zero2r1.training.loop import Outcome
from zero2r1.types import Completion, Segment


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(untrained(tmp_path_factory.mktemp("model") / "base"))


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs a command line in a folder of its own; returns exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name in list(os.environ):
        if name.startswith("ZERO2R1_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ZERO2R1_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["zero2r1", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return call


def flags(settings: dict[str, object] = SMALL, prefix: str = "") -> list[str]:
    found: list[str] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found += flags(value, f"{prefix}{key}.")
        else:
            found.append(f"--{prefix}{key}={json.dumps(value)}")
    return found


def test_help_names_the_verbs(run):
    status, out, _ = run("--help")
    assert status == 0 and all(verb in out for verb in ("demo", "train", "eval", "check", "show", "config"))


def test_an_unknown_option_is_refused_with_the_nearest_name(run):
    status, out, err = run("config", "show", "--optimizer.learning_rte=1e-4")
    assert status == 2 and "optimizer.learning_rte" in err and "learning_rate" in err and out == ""


def test_a_file_with_an_unknown_key_names_its_line(run, tmp_path):
    (tmp_path / "my.yaml").write_text("steps: 3\nrollout:\n  group_sise: 8\n")
    status, _, err = run("train", "zero", "--config", "my.yaml")
    assert status == 2 and "my.yaml:3" in err and "group_size" in err
    assert not (tmp_path / "runs").exists()


def test_settings_are_shown_with_their_sources(run):
    _, out, _ = run("config", "show", "--algorithm", "modern", "--steps", "7")
    assert "steps: 7" in out and "--steps" in out and "--algorithm modern" in out
    _, schema, _ = run("config", "schema")
    assert "rollout" in json.loads(schema)["properties"]


def test_two_settings_files_are_compared(run, tmp_path):
    (tmp_path / "a.yaml").write_text("steps: 3\n")
    (tmp_path / "b.yaml").write_text("steps: 4\n")
    _, out, _ = run("config", "diff", "a.yaml", "b.yaml")
    assert "steps" in out and "3" in out and "4" in out


def test_check_prints_the_prompt_as_tokens_and_the_four_rewards(run, model):
    status, out, _ = run("check", "--model", model, *flags(), "--reward.weights={accuracy: 1.0, format: 0.2}")
    assert status == 0
    assert "25 tokens: the assistant first thinks" in out
    assert "gold 1.20 · wrong 0.20 · empty 0.00 · truncated 0.00" in out
    assert "2 prompts x 4 answers = 8 completions a rollout = 1 update of 8; 2 steps = 2 rollouts" in out


def test_a_run_continues_under_its_name_and_refuses_other_settings(run, model, tmp_path):
    command = ["train", "zero", "--model", model, "--name", "mine", *flags()]
    assert run(*command)[0] == 0
    assert run(*command, "--steps", "3")[0] == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs" / "mine" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]
    status, _, err = run(*command, "--optimizer.learning_rate", "1e-3")
    assert status == 2 and "E002 resume" in err and "optimizer.learning_rate" in err
    status, out, _ = run("show", "runs/mine", "--step", "1", "--count", "2", "--json")
    assert status == 0 and len(out.splitlines()) == 2 and "reward" in json.loads(out.splitlines()[0])
    status, out, _ = run("eval", "--model", "runs/mine/checkpoints/latest/model", *flags(), "--json")
    assert status == 0 and 0.0 <= json.loads(out.splitlines()[-1])["pass@1"] <= 1.0


def test_show_says_what_is_no_run(run):
    status, _, err = run("show", "nowhere")
    assert status == 2 and "nowhere is no run folder" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--minutes", "5"), "the demo comes in 3 lengths, 3, 15, 60"),
        (("train", "zero", "--algorithm", "r2"), "--algorithm r2 is not known; choose one of r1, modern"),
    ],
)
def test_what_cannot_be_is_said_in_one_message(run, arguments, message):
    status, _, err = run(*arguments)
    assert status == 2 and message in err and "Traceback" not in err


def test_the_demo_goes_from_nothing_through_every_stage_to_a_report(run, tmp_path):
    tiny = {
        "base": {"steps": 2},
        "evaluation": {"problems": 12, "samples": 8, "max_new_tokens": 24},
        "zero": {"steps": 2, "rollout": {"max_new_tokens": 24, "prompts_per_rollout": 2}},
        "cold_start": {"problems": 2, "solved": 24, "sft": {"epochs": 1}},
        "reasoning_rl": {"steps": 1, "pass_rate": None, "rollout": {"max_new_tokens": 24, "prompts_per_rollout": 2}},
    }
    # Nothing that so young a model writes is right, so stage 3 has nothing to keep: it says so, and what was done is kept.
    status, out, err = run("demo", "--minutes", "3", "--name", "d", *flags(tiny), "--rejection_sft.problems=2")
    assert status == 2 and "rejection sampling kept nothing (sampled" in err
    assert "loading torch" in out.splitlines()[0]
    folder = tmp_path / "runs" / "d"
    measured = {path.stem for path in folder.glob("stages/*/evals/*.json")}
    assert measured == {"base", "base_web", "zero", "dev1", "dev2"}
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    status, out, _ = run("report", "runs/d")
    assert status == 0 and (folder / "report.html").exists() and (folder / "report.md").exists()
    again = run("demo", "--minutes", "3", "--name", "d", *flags(tiny), "--rejection_sft.problems=2")[1]
    assert again.count("up to date") == 4


def test_eval_measures_on_the_file_it_is_given(run, model, tmp_path):
    (tmp_path / "mine.jsonl").write_text(
        "".join(json.dumps({"question": f"compute {i} + 1", "answer": str(i + 1)}) + "\n" for i in range(3))
    )
    short = ["--evaluation.samples=2", "--evaluation.max_new_tokens=8"]
    status, out, _ = run("eval", "--model", model, "--data.held_out", "mine.jsonl", *short)
    assert status == 0 and out.startswith("3 problems of mine, 2 answers to each")
    status, out, err = run("train", "zero", "--model", model, "--data.held_out", "mine.jsonl", *flags())
    assert status == 2 and "data.train is missing" in err


@pytest.mark.parametrize("command", [("check",), ("config", "show"), ("train", "zero")])
def test_an_unknown_algorithm_is_refused_everywhere(run, command):
    status, _, err = run(*command, "--algorithm", "r2")
    assert status == 2 and "--algorithm r2 is not known; choose one of r1, modern" in err


def test_the_command_to_continue_can_be_pasted(run, model, tmp_path):
    template = "Question: {question} Answer:"
    status, out, _ = run("train", "zero", "--model", model, "--data.template", template, "--name", "mine", *flags())
    assert status == 0 and f"--data.template '{template}'" in out


def test_an_evaluation_the_claims_cannot_use_is_refused_before_training(run):
    status, _, err = run("demo", "--evaluation.samples=4", "--base.steps=2")
    assert status == 2 and "the demo's claims are about 8 answers" in err


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(model, tmp_path):
    command = [sys.executable, "-c", "from zero2r1.cli import main; main()", "train", "zero", "--model", model, "--name", "mine", *flags()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(cli.__file__).parents[2]), "COLUMNS": "200"}
    process = subprocess.Popen(
        [*command, "--steps", "100000"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while "step 1/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "finishing this step, saving" in err and "saved. Continue with:" in err and "--name mine" in err
    run = tmp_path / "runs" / "mine"
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    assert (run / "checkpoints" / f"step_{last:06d}" / "state" / "state.json").is_file()
    assert json.loads((run / "run.json").read_text())["status"] == "stopped"


def scripted(text: str, before=lambda: None):
    """In place of the sampler: the same answer to everything, numbered."""

    def generate(engine, requests):
        before()
        segment = Segment(token_ids=(1,), logprobs=(-1.0,))
        return [
            [
                Completion(segments=(segment,), text=f"{text} {request.id} {i}", finish_reason="stop", seed=seed, policy_version=0)
                for i, seed in enumerate(request.seeds)
            ]
            for request in requests
        ]

    return generate


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_rl_that_is_stopped_while_it_measures_pass_rates_goes_on_there(run, model, tmp_path, monkeypatch, number, status):
    """4 problems, one at a time: the signal comes during the first, three are left."""
    asked: list[int] = []

    def sample_once():
        asked.append(1)
        if len(asked) == 1:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("zero2r1.pipeline.sampling.generate", scripted("I do not know", sample_once))
    measuring = ["--pass_rate.problems=4", "--pass_rate.samples=2", "--pass_rate.chunk=1"]
    command = ["train", "rl", "--model", model, "--name", "mine", *flags(), *measuring]
    stopped, _, err = run(*command)
    assert stopped == status and "saved. Continue with:" in err and "--name mine" in err and "Traceback" not in err
    assert json.loads((tmp_path / "runs" / "mine" / "run.json").read_text())["status"] == "stopped"
    assert len(asked) == 1
    failed, _, err = run(*command)
    assert failed == 2 and "pass_rate keeps none of 4 problems" in err  # nothing it says is right, as far as the rest goes
    assert len(asked) == 4


def test_a_run_that_waits_for_a_person_has_not_failed(tmp_path, capsys):
    def work(should_stop):
        raise StageStopped("3 of 3 samples wait for a decision in review.md")

    run = RunDir.start(tmp_path / "run", command=[], config="", seed=0)
    with pytest.raises(typer.Exit) as ended:
        guarded(run, work, "zero2r1 again")
    assert ended.value.exit_code == 0
    err = capsys.readouterr().err
    assert err == "3 of 3 samples wait for a decision in review.md\nsaved. Continue with:  zero2r1 again\n"
    assert run.read_json("run.json")["status"] == "stopped" and "review.md" in run.read_json("run.json")["reason"]


def test_a_judge_who_is_not_there_is_one_message(run, model, tmp_path, monkeypatch):
    """20 problems with two answers each are 40 cases; 32 failures in a row are enough."""
    monkeypatch.setattr("zero2r1.pipeline.sampling.generate", scripted("<think>\nI count .\n</think>\n\nIt is"))
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"question": f"what is {i}", "answer": "x", "verifier": "judge"}) + "\n" for i in range(20))
    )
    data = ["--data.train", "p.jsonl", "--data.held_out", "p.jsonl", "--sample.samples=2", "--sample.max_new_tokens=8"]
    with answers(refusal(404)) as server:
        status, _, err = run("sample", "--model", model, "--name", "s", *data, "--endpoint.url", server.url, "--endpoint.model", "judge")
    assert status == 2 and err.startswith("error: 32 times in a row the judge could not be asked") and "Is its endpoint up?" in err
    assert "Traceback" not in err
    assert json.loads((tmp_path / "runs" / "s" / "run.json").read_text())["status"] == "failed"


def test_sampling_needs_problems_to_sample_from(run, model, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"question": "compute 1 + 1", "answer": "2"}\n')
    status, _, err = run("sample", "--model", model, "--data.held_out", "t.jsonl")
    assert status == 2 and "data.train is missing" in err


@pytest.mark.parametrize("asked", [("--from", "zero"), ("--from=zero",)])
def test_the_command_to_continue_a_pipeline_does_not_begin_again(run, monkeypatch, tmp_path, asked):
    monkeypatch.setattr("zero2r1.pipeline.demo.run_pipeline", lambda *_, **__: Outcome.STOPPED)
    (tmp_path / "r.yaml").write_text("seed: 1\n")
    status, out, err = run("pipeline", "r.yaml", *asked, "--only", "zero", "--name", "p")
    assert status == 0
    for told in (out, err):
        assert "zero2r1 pipeline r.yaml --only zero --name p" in told and "--from" not in told


def test_a_model_that_was_not_fetched_yet_names_the_command(run, monkeypatch):
    monkeypatch.setattr("zero2r1.models.smollm2.find_spec", lambda name: None)
    status, _, err = run("train", "zero", "--model", "smollm2-135m")
    assert status == 2 and "make smollm2" in err and "Traceback" not in err


def test_score_grades_a_file_and_check_data_lists_what_cannot_be_graded(run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"completion": "\\\\boxed{7}", "answer": "7"}\n{"completion": "\\\\boxed{8}", "answer": "7"}\n')
    status, out, _ = run("score", str(rows), "--reward", "math", "--json")
    assert status == 0 and json.loads(out) == {"rows": 2, "mean": 0.5, "parts": {"math": 0.5}, "ungraded": 0}
    status, _, err = run("score", str(rows), "--reward", "maths")
    assert status == 2 and "did you mean math" in err
    data = tmp_path / "data.jsonl"
    data.write_text('{"question": "a", "answer": "7"}\n{"question": "b", "answer": "1/0"}\n')
    status, out, _ = run("check", "data", str(data))
    assert status == 1 and "1 of 2 references" in out and "'1/0'" in out


def test_check_reward_tries_a_function_on_probes(run, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text("def good(completions, answer, **columns):\n    return [float(a in c) for a, c in zip(answer, completions)]\n")
    _, out, _ = run("check", "reward", f"{source}:good")
    assert 'reward  "good" (mine.py:1)' in out and "empty" in out


def test_a_model_that_is_not_there_leaves_no_run_behind(run, tmp_path):
    status, _, err = run("train", "zero", "--model", "runs/nowhere/checkpoints/latest/model", *flags())
    assert status == 2 and "there is no folder runs/nowhere/checkpoints/latest/model" in err and "was removed" in err
    assert not (tmp_path / "runs" / "latest").exists() and list((tmp_path / "runs").iterdir()) == []


def test_the_help_of_algorithm_names_all_of_them():
    assert all(name in ALGORITHM_NAMES for name in ALGORITHMS)


def test_an_algorithm_changes_what_a_file_says_and_a_flag_changes_both(run, tmp_path):
    (tmp_path / "a.yaml").write_text("grpo: {clip_high: 0.2, aggregation: constant}\nrollout: {group_size: 4}\n")
    _, out, _ = run("config", "show", "--config", "a.yaml", "--algorithm", "dapo", "--grpo.clip_low=0.1")
    assert "clip_high: 0.28" in out and "aggregation: token_mean" in out and "group_size: 4" in out and "clip_low: 0.1" in out


def test_show_names_the_stages_of_a_run_that_has_several(run, tmp_path):
    whole = RunDir.start(tmp_path / "runs" / "whole", command=[], config="", seed=0)
    RunDir.start(whole.path / "stages" / "02-zero", command=[], config="", seed=0).append_metrics({"step": 1, "loss": 0.5})
    status, _, err = run("show", "runs/whole", "--step", "1")
    assert status == 2 and "zero2r1 show runs/whole/stages/02-zero" in err
    assert run("show", "runs/whole/stages/02-zero")[0] == 0


def test_an_unknown_stage_is_refused_before_anything_is_planned(run):
    for option in (["--from", "reasoning", "--dry-run"], ["--only", "nostage"]):
        status, out, err = run("pipeline", "recipes/laptop/r1.yaml", *option)
        assert status == 2 and "is no stage; the stages are base, zero, cold_start" in err and "run folder" not in out
