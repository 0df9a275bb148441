"""`distill`: students that come nearer to their teacher by either way, what is measured and written, and what is refused before work."""

from __future__ import annotations

import io
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner

from tests.pipeline.tiny_stage import untrained
from zero2r1.cli.distill import distill
from zero2r1.cli.settings import SETTINGS
from zero2r1.models.loading import load_policy, save_policy
from zero2r1.models.tiny import SIZES, build_tiny_model
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.pipeline.distill_config import DistillSettings
from zero2r1.pipeline.distilling import distillation_world, load_teacher, raise_context, run_distillation, student_stage
from zero2r1.pipeline.narration import Narrator
from zero2r1.pipeline.stage import Stage
from zero2r1.run_dir import RunDir
from zero2r1.samples import Lineage, Sample, write_samples
from zero2r1.tasks.laptop.words import TAGS, vocabulary
from zero2r1.training.loop import Outcome
from zero2r1.types import Problem

WORDS = [word for word in vocabulary() if word.isalpha()][:12]


def samples() -> list[Sample]:
    """Twelve answers of a teacher who repeats a word in his thoughts and says it."""
    return [
        Sample(
            id=f"{word}#0",
            problem=Problem(
                id=word, prompt=f"{word} ?", answer=word, verifier="math", domain="d", language="en", source="s", licence="CC0",
                split="train",
            ),
            thinking=f"{word} {word}",
            summary=f"{word} .",
            lineage=Lineage(source="dev2"),
        )
        for word in WORDS
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A student, and files of samples, prompts and held-out problems."""
    folder = tmp_path_factory.mktemp("distill")
    untrained(folder / "student")
    write_samples(folder / "kept.jsonl", samples())
    for name, chosen in (("prompts", samples()), ("held_out", samples()[:2])):
        rows = [json.dumps({"question": sample.problem.prompt, "answer": sample.problem.answer}) + "\n" for sample in chosen]
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def teacher(folder) -> Path:
    """The student, tuned on the samples until it knows them."""
    distil(folder, folder / "teaching", sft={"epochs": 25})
    return (folder / "teaching" / "checkpoints" / "latest" / "model").resolve()


def of(folder: Path, **changes: object) -> DistillSettings:
    method = changes.get("method", "sft")
    data = {"train": str(folder / "kept.jsonl")} if method == "sft" else {"prompts": str(folder / "prompts.jsonl")}
    sft = {"epochs": 1, "batch_size": 12, "max_length": 64, "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0}}
    on_policy = {
        "steps": 2, "rollout": {"prompts_per_step": 6, "max_new_tokens": 10}, "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0},
    }  # fmt: skip
    return DistillSettings.model_validate(
        {
            "model": str(folder / "student"),
            "evaluation": {"problems": 2, "samples": 1, "max_new_tokens": 4},
            **changes,
            "data": {**data, **changes.get("data", {})},
            "sft": {**sft, **changes.get("sft", {})},
            "on_policy": {**on_policy, **changes.get("on_policy", {})},
        }
    )


def distil(folder: Path, run: Path, *, should_stop=lambda: False, console: Console | None = None, **changes: object):
    opened = RunDir.start(run, command=[], config="", seed=0)
    return run_distillation(of(folder, **changes), opened, narrator=Narrator(console), should_stop=should_stop)


def likelihood(folder: Path, model: Path) -> float:
    """Mean log-probability of a response token of the samples, by the whole model."""
    stage = student_stage(of(folder, model=str(model)), Narrator())
    found = []
    for sample in samples():
        example = stage.example(sample.dialogue)
        ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
        with torch.no_grad():
            logprobs = stage.policy(input_ids=ids).logits[0, len(example.prompt_ids) - 1 : -1].log_softmax(-1)
        found += logprobs.gather(-1, torch.tensor(example.response_ids)[:, None])[:, 0].tolist()
    return sum(found) / len(found)


def test_samples_of_the_teacher_become_likely(folder, teacher):
    """An untrained model gives a token e^-6, less than one chosen at random has; the tuned one was measured at e^-0.17."""
    assert likelihood(folder, folder / "student") < -4 and likelihood(folder, teacher) > -0.7


def test_on_policy_the_student_comes_to_what_the_teacher_knows(folder, teacher, tmp_path):
    """Seeds 0 to 2 end at 0.25 to 0.27 of the first divergence, and at -1.6 to -1.7 for texts of the teacher they never saw, from -6.0."""
    practice = {
        "steps": 60,
        "rollout": {"prompts_per_step": 12, "max_new_tokens": 10},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 0},
    }
    done = distil(folder, tmp_path / "run", method="on_policy", teacher=str(teacher), on_policy=practice)
    rows = RunDir(tmp_path / "run").metrics()
    assert done.outcome is Outcome.DONE and len(rows) == 60
    assert sum(row["reverse_kl"] for row in rows[-5:]) / 5 < rows[0]["reverse_kl"] / 2
    assert likelihood(folder, tmp_path / "run" / "checkpoints" / "latest" / "model") > -3.5


def test_the_student_is_measured_once_before_and_once_after_where_there_are_problems_for_it(folder, teacher, tmp_path, monkeypatch):
    seen: list[str] = []
    measure = Stage.measure

    def noted(stage: Stage, name: str, **more: object):
        seen.append(name)
        return measure(stage, name, **more)

    monkeypatch.setattr(Stage, "measure", noted)
    for method in ("sft", "on_policy"):
        other = {} if method == "sft" else {"teacher": str(teacher)}
        choice = {"method": method, **other, "data": {"held_out": str(folder / "held_out.jsonl")}, "sft": {"epochs": 2}}
        polls = itertools.count()
        stopped = distil(folder, tmp_path / method, should_stop=lambda polls=polls: next(polls) == 0, **choice)
        assert (stopped.outcome, stopped.evaluation, stopped.compute.steps) == (Outcome.STOPPED, None, 1)
        done = distil(folder, tmp_path / method, **choice)
        assert (done.outcome, done.compute.steps) == (Outcome.DONE, 2) and done.evaluation is not None
        assert done.evaluation.name == "after" and len(done.evaluation.problems) == 2
        assert sorted(file.name for file in (tmp_path / method / "evals").glob("*.json")) == ["after.json", "before.json"]
        assert distil(folder, tmp_path / f"{method}_unmeasured", **{**choice, "data": {}}).evaluation is None
    assert seen == ["before", "after"] * 2


def test_what_it_cost_is_written_beside_the_metrics(folder, teacher, tmp_path):
    """Both have the laptop student's weights without its embedding, a row of 64 for each word; prompts count where the rows name them."""
    embedding = 64 * len(load_policy(folder / "student", device=torch.device("cpu"))[1])
    total = sum(p.numel() for p in load_policy(folder / "student", device=torch.device("cpu"))[0].parameters())
    distil(folder, tmp_path / "run", method="on_policy", teacher=str(teacher))
    written, rows = json.loads((tmp_path / "run" / "compute.json").read_text()), RunDir(tmp_path / "run").metrics()
    tokens = sum(row["num_tokens"] + row["num_prompt_tokens"] for row in rows)
    assert written["parameters"] == written["reader_parameters"] == total - embedding
    assert written["flops"] == (2 + 6 + 2) * (total - embedding) * tokens and written["method"] == "on_policy"
    assert written["seconds"] == pytest.approx(sum(row["step_time"] for row in rows))


def test_one_hears_what_was_cut_and_what_it_cost(folder, tmp_path):
    """Prompts have some tokens and responses at least seven: at most 12 together cuts all of them, at 64 none."""
    said = {}
    for length in (12, 64):
        stream = io.StringIO()
        distil(folder, tmp_path / str(length), console=Console(file=stream, width=200), sft={"max_length": length})
        said[length] = stream.getvalue()
    assert "data      12 dialogues, 1 updates of 12" in said[64]
    assert "12 examples learnt, 0 of them cut at the end, 0 too long to learn at all" in said[64]
    assert "12 examples learnt, 12 of them cut at the end, 0 too long to learn at all" in said[12]
    assert "FLOPs in" in said[64] and "trained" in said[64]


@pytest.mark.parametrize("method", ["sft", "on_policy"])
def test_every_step_reaches_the_tracker(folder, teacher, tmp_path, monkeypatch, method):
    heard: list[int] = []
    monkeypatch.setattr("zero2r1.pipeline.distilling.open_tracker", lambda kind, run: lambda row: heard.append(row["step"]))
    distil(folder, tmp_path / "run", method=method, sft={"epochs": 2}, **({} if method == "sft" else {"teacher": str(teacher)}))
    assert heard == [1, 2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"train": None}}, "data.train is missing: name a file of samples"),
        ({"method": "on_policy"}, "teacher is missing"),
        ({"method": "on_policy", "teacher": "x", "data": {"prompts": None}}, "data.prompts is missing"),
        ({"data": {"columns": {"prompt": "q"}}}, "names columns of files of problems, data.held_out and data.prompts, and there is none"),
        ({"data": {"train": "nowhere.jsonl"}}, "no file nowhere.jsonl"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_computed(folder, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        distil(folder, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_teacher_with_another_vocabulary_is_refused_before_anything_is_measured(folder, tmp_path):
    words = list(vocabulary())
    words[0], words[1] = words[1], words[0]
    tokenizer = word_tokenizer(words, TAGS)
    stranger = build_tiny_model(SIZES["student"], tokenizer, seed=0)
    save_policy(stranger, tokenizer, tmp_path / "stranger", stops=(int(tokenizer.eos_token_id),))
    data = {"held_out": str(folder / "held_out.jsonl")}
    with pytest.raises(ValueError, match=f"E203 vocabulary: .*id 1: {words[1]!r} for the student, {words[0]!r} for the teacher .2 ids"):
        distil(folder, tmp_path / "run", method="on_policy", teacher=str(tmp_path / "stranger"), data=data)
    assert not (tmp_path / "run" / "evals").exists() and not (tmp_path / "run" / "checkpoints").exists()


def test_a_padded_head_is_the_teachers_privilege(folder, tmp_path):
    """Eight rows more than the vocabulary: the teacher's are not looked at; the student could sample what the teacher cannot read."""
    policy, tokenizer = load_policy(folder / "student", device=torch.device("cpu"))
    policy.resize_token_embeddings(len(tokenizer) + 8)
    save_policy(policy, tokenizer, tmp_path / "padded", stops=(int(tokenizer.eos_token_id),))
    done = distil(folder, tmp_path / "run", method="on_policy", teacher=str(tmp_path / "padded"))
    assert done.outcome is Outcome.DONE and RunDir(tmp_path / "run").metrics()[0]["reverse_kl"] == pytest.approx(0.0, abs=1e-5)
    with pytest.raises(ValueError, match=f"{len(tokenizer) + 8} rows .student. and {len(tokenizer)} .teacher."):
        distil(folder, tmp_path / "other", method="on_policy", teacher=str(folder / "student"), model=str(tmp_path / "padded"))


def test_a_run_goes_on_with_the_teacher_it_was_started_with_only(folder, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "teacher")
    choice = {"method": "on_policy", "teacher": str(tmp_path / "teacher")}
    distil(folder, tmp_path / "run", should_stop=lambda: True, **choice)
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(folder / "student", tmp_path / "teacher")
    with pytest.raises(ValueError, match="E002 resume: the run was started with another teacher"):
        distil(folder, tmp_path / "run", **choice)
    shutil.rmtree(tmp_path / "teacher")
    shutil.copytree(teacher, tmp_path / "teacher")
    assert distil(folder, tmp_path / "run", **choice).outcome is Outcome.DONE
    assert [event["model"] for event in RunDir(tmp_path / "run").events() if event["event"] == "teacher"] == [str(tmp_path / "teacher")]


def test_answers_end_where_the_teacher_ends_them_too(folder, tmp_path):
    """A teacher whose generation config lists token 7 beside the tokenizer's end."""
    policy, tokenizer = load_policy(folder / "student", device=torch.device("cpu"))
    end = int(tokenizer.eos_token_id)
    save_policy(policy, tokenizer, tmp_path / "teacher", stops=(end, 7))
    stage = student_stage(of(folder), Narrator())
    assert stage.stops == (end,)
    assert not any(p.requires_grad for p in load_teacher(tmp_path / "teacher", stage).parameters())
    assert stage.stops == (end, 7)


def test_a_students_context_is_raised_and_saved_but_never_lowered(folder, tmp_path):
    """The laptop's models take 1,024 tokens."""
    stream = io.StringIO()
    distil(folder, tmp_path / "run", context=2_000, console=Console(file=stream, width=200))
    saved = json.loads((tmp_path / "run" / "checkpoints" / "latest" / "model" / "config.json").read_text())
    assert saved["max_position_embeddings"] == 2_000 and "raised from 1024 to 2000 tokens" in stream.getvalue()
    assert student_stage(of(folder, context=512), Narrator()).policy.config.max_position_embeddings == 1_024


def test_position_embeddings_that_do_not_simply_go_on_are_left_alone(folder):
    policy, _ = load_policy(folder / "student", device=torch.device("cpu"))
    policy.config.rope_parameters = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0}
    with pytest.raises(ValueError, match="context is 2000, but LlamaForCausalLM takes 1024 tokens"):
        raise_context(policy, 2_000)
    assert policy.config.max_position_embeddings == 1_024


@pytest.mark.parametrize(
    ("prompts", "held_out", "expected"),
    [
        (None, None, ("none", 0, 0)),
        (None, "laptop", ("laptop", 0, 2)),
        (None, "file", ("held_out", 0, 2)),
        ("laptop", None, ("laptop", 5, 0)),
        ("laptop", "laptop", ("laptop", 5, 2)),
        ("laptop", "file", ("held_out", 5, 2)),
        ("file", None, ("none", 5, 0)),
        ("file", "laptop", ("laptop", 5, 2)),
        ("file", "file", ("held_out", 5, 2)),
    ],
)
def test_prompts_and_held_out_problems_come_from_where_each_is_named(folder, prompts, held_out, expected):
    files = {"file": {"prompts": str(folder / "prompts.jsonl"), "held_out": str(folder / "held_out.jsonl")}}
    data = {
        "prompts": files.get(prompts or "", {}).get("prompts", prompts),
        "held_out": files.get(held_out or "", {}).get("held_out", held_out),
        "count": 5 if prompts else None,
    }
    method = {"method": "on_policy", "teacher": "x"} if prompts else {}
    world = distillation_world(of(folder, data=data, **method))
    assert (world.name, len(world.train), len(world.held_out)) == expected
    assert {problem.source for problem in world.train} == ({"prompts"} if prompts == "file" else {"laptop"} if prompts else set())
    assert (world.template, world.format_mode) == ("chat", "think_only")


def test_the_layout_that_is_taught_is_the_one_that_is_measured(folder):
    assert distillation_world(of(folder, data={"layout": "special_token"})).format_mode == "cold_start"


def test_the_command_distils_goes_on_under_its_name_and_refuses_other_settings(folder, teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command("distill", context_settings=SETTINGS)(distill)
    app.command("other")(lambda: None)  # with one command alone there would be no word for it
    asked = ["distill", "--name", "mine", "--model", str(folder / "student"), "--method", "on_policy", "--teacher", str(teacher)]
    asked += ["--data.prompts", str(folder / "prompts.jsonl"), "--on_policy.rollout.max_new_tokens=4", "--on_policy.steps=1"]
    for _ in range(2):
        done = CliRunner().invoke(app, asked, catch_exceptions=False)
        assert done.exit_code == 0 and "teacher  " in done.output
    run = RunDir(tmp_path / "runs" / "mine")
    assert len(run.metrics()) == 1 and run.read_json("run.json")["status"] == "done"
    with pytest.raises(ValueError, match=r"E002 resume.*\n.*on_policy\.rollout\.max_new_tokens: 4 -> 5"):
        CliRunner().invoke(app, [*asked, "--on_policy.rollout.max_new_tokens=5"], catch_exceptions=False)


def test_a_preset_of_the_command_is_a_source_that_flags_override(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command("distill", context_settings=SETTINGS)(distill)
    asked = ["--preset", "r1-distill-llama-8b", "--name", "mine", "--model", str(folder / "student"), "--data.train"]
    done = CliRunner().invoke(app, [*asked, str(folder / "kept.jsonl"), "--sft.epochs=1"], catch_exceptions=False)
    written = (tmp_path / "runs" / "mine" / "config.yaml").read_text()
    assert (
        done.exit_code == 0
        and "learning_rate: 5.0e-05  # --preset r1-distill-llama-8b" in written
        and "epochs: 1  # --sft.epochs" in written
    )
