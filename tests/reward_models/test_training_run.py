"""`train rm` from file to folder, and the function a pipeline calls."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification
from typer.testing import CliRunner

from tests.reward_models.toy_models import causal_folder, labels, preferences
from zero2r1.cli import app
from zero2r1.models.reward_head import read_card
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.reward_config import RewardModelRunSettings
from zero2r1.pipeline.reward_training import run_reward_model, train_reward_model, words_read
from zero2r1.reward_models.config import RewardModelSettings
from zero2r1.reward_models.data import Preference, Response, write_labels, write_preferences
from zero2r1.reward_models.reward import RewardModelReward
from zero2r1.run_dir import RunDir
from zero2r1.training.config import ComputeSettings, OptimizerSettings
from zero2r1.training.loop import Outcome

FAST = {
    "epochs": 8,
    "batch_size": 16,
    "max_length": 64,
    "optimizer": OptimizerSettings(learning_rate=3e-3, warmup_steps=0),
    "compute": ComputeSettings(tokens_per_micro_batch=1024),
}


@pytest.fixture(scope="module")
def causal(tmp_path_factory) -> Path:
    return causal_folder(tmp_path_factory.mktemp("causal"))


def run_at(folder: Path) -> RunDir:
    return RunDir.start(folder, command=["test"], config="", seed=0)


def heard_run(settings: RewardModelRunSettings, run: RunDir):
    said: list[str] = []
    narrator = Narrator()
    narrator.say = said.append
    return run_reward_model(settings, run, narrator=narrator, should_stop=lambda: False), "\n".join(said)


def test_from_a_file_of_pairs_to_a_model_that_is_right_on_prompts_it_never_saw(causal, tmp_path):
    write_preferences(tmp_path / "pairs.jsonl", preferences(120))
    settings = RewardModelRunSettings(**FAST, model=str(causal), held_out_share=0.2, data={"train": str(tmp_path / "pairs.jsonl")})
    result, said = heard_run(settings, run_at(tmp_path / "run"))
    assert result.outcome is Outcome.DONE and result.report is not None and result.report.accuracy > 0.9
    assert result.report.count >= 24 and result.report.low > 0.5
    kept = json.loads((tmp_path / "run" / "evals" / "report.json").read_text())
    assert kept["figures"]["accuracy"] == result.report.accuracy and kept["before"]["accuracy"] < 0.9
    assert len(kept["arrays"]["accuracy"]) == result.report.count == sum(b["count"] for b in kept["report"]["bins"]) / 2
    assert "0 of 96 prompts lost their beginning" in said and "0 pairs were left out" in said
    assert "the summary alone" in said and "length only" in said and "held out" in (tmp_path / "run" / "evals" / "report.txt").read_text()
    card = read_card(tmp_path / "run" / "model")
    assert (card.kind, card.view, card.mean, card.std) == ("preference", "summary", result.report.mean, result.report.std)
    assert AutoModelForSequenceClassification.from_pretrained(result.folder).config.num_labels == 1
    values = RewardModelReward(result.folder)(prompts=["n1"] * 2, completions=["n1 good", "n1 n2"])
    assert values[0] > 0.5 > values[1]


def test_labels_are_learnt_from_the_whole_response(causal, tmp_path):
    rows = labels(120)
    result = train_reward_model(causal, rows[:96], rows[96:], RewardModelSettings(**FAST, kind="safety"), run_at(tmp_path / "run"))
    assert result.report.kind == "safety" and result.report.auc > 0.95 and result.report.accuracy > 0.9
    # The same labels are beyond a model that reads the summary alone: every summary is clean.
    blind = RewardModelSettings(**FAST, kind="safety", view="summary")
    assert train_reward_model(causal, rows[:96], rows[96:], blind, run_at(tmp_path / "blind")).report.auc < 0.8


def test_a_stopped_run_says_so_and_goes_on_to_the_same_model(causal, tmp_path):
    rows, settings = preferences(40), RewardModelSettings(**{**FAST, "epochs": 2})
    whole = train_reward_model(causal, rows[:32], rows[32:], settings, run_at(tmp_path / "whole"))
    stopped = train_reward_model(causal, rows[:32], rows[32:], settings, run_at(tmp_path / "cut"), should_stop=lambda: True)
    assert stopped.outcome is Outcome.STOPPED and stopped.folder is None and not (tmp_path / "cut" / "model").exists()
    resumed = train_reward_model(causal, rows[:32], rows[32:], settings, run_at(tmp_path / "cut"))
    assert resumed.report == whole.report
    for name in ("model/model.safetensors", "model/reward_model.json", "evals/report.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_a_prompt_of_the_held_out_file_is_not_learnt(causal, tmp_path):
    rows = preferences(24)
    write_preferences(tmp_path / "train.jsonl", rows)
    write_preferences(tmp_path / "test.jsonl", rows[:4])
    data = {"train": str(tmp_path / "train.jsonl"), "held_out": str(tmp_path / "test.jsonl")}
    settings = RewardModelRunSettings(**{**FAST, "epochs": 1}, model=str(causal), data=data)
    result, said = heard_run(settings, run_at(tmp_path / "run"))
    assert "20 pairs to learn, 4 held out" in said and "4 rows of" in said and result.report.count == 4
    data["train"] = data["held_out"]
    with pytest.raises(ValueError, match="nothing is left to learn"):
        heard_run(RewardModelRunSettings(**FAST, model=str(causal), data=data), run_at(tmp_path / "other"))


def test_pairs_that_differ_in_their_thinking_alone_are_left_out_of_the_summary_view(causal, tmp_path):
    rows = preferences(16)
    same = Preference(
        messages=rows[0].messages, chosen=Response(thinking="n1", summary="n2"), rejected=Response(thinking="n3", summary="n2")
    )
    run = run_at(tmp_path / "run")
    train_reward_model(causal, [*rows, same], [], RewardModelSettings(**{**FAST, "epochs": 1}), run)
    events = {event["event"]: event for event in run.events()}
    assert events["data"]["same_under_view"] == 1 and events["examples"]["count"] == 16


def test_nothing_held_out_is_nothing_measured_but_still_a_scale(causal, tmp_path):
    result = train_reward_model(causal, preferences(16), [], RewardModelSettings(**{**FAST, "epochs": 1}), run_at(tmp_path / "run"))
    assert result.report is None and read_card(result.folder).std != 1.0
    assert not (tmp_path / "run" / "evals" / "report.json").exists()


def test_mistakes_are_told_before_work(causal, tmp_path):
    with pytest.raises(ValueError, match="data.train is missing"):
        heard_run(RewardModelRunSettings(model=str(causal)), run_at(tmp_path / "a"))
    with pytest.raises(ValueError, match="learns from Label values alone"):
        train_reward_model(causal, preferences(4), [], RewardModelSettings(kind="safety"), run_at(tmp_path / "b"))


def test_words_are_those_that_are_read():
    response = Response(thinking="one two", summary="three")
    assert (words_read(response, "response"), words_read(response, "summary")) == (3, 1)


def test_the_command(causal, tmp_path):
    write_labels(tmp_path / "labels.jsonl", labels(40))
    arguments = ["train", "rm", "--model", str(causal), "--data.train", str(tmp_path / "labels.jsonl"), "--kind", "safety", "--runs",
                 str(tmp_path / "runs"), "--name", "safe", "--batch_size=16", "--max_length=64", "--held_out_share=0.2"]  # fmt: skip
    threads = torch.get_num_threads()
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert torch.get_num_threads() == threads
    assert read_card(tmp_path / "runs" / "safe" / "model").kind == "safety" and "AUC" in done.output
    shown = CliRunner().invoke(app, ["config", "show", "--of", "rm"], catch_exceptions=False)
    assert "learning_rate: 6.0e-06" in shown.output and "batch_size: 256" in shown.output
