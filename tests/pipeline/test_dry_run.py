"""A look before a run: its arithmetic by hand and against the code it describes, and what it says of recipes and files."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig

from tests.pipeline.tiny_stage import untrained
from tests.tiny_models import tiny_llama, tiny_qwen
from zero2r1 import cli
from zero2r1.grpo.config import TrainSettings
from zero2r1.models.attention import PackedAttention, backbone_forward
from zero2r1.pipeline.dry_run import dry_run
from zero2r1.pipeline.dry_run_page import aligned, duration, page, short
from zero2r1.pipeline.estimates import (
    GIB,
    ModelShape,
    cache_bytes,
    cached_positions,
    checkpoint_bytes,
    checkpoints_on_disk,
    head_bytes,
    layer_bytes,
    sampling_peak,
    speed_of,
    training_peak,
    updates_of,
)
from zero2r1.pipeline.model_shapes import KNOWN, folder_here, is_hub_name, shape_of, shape_of_config
from zero2r1.pipeline.recipe import PipelineSettings
from zero2r1.pipeline.stage_counts import probes_of, rollouts_of
from zero2r1.rollout.kv_cache import KVCache

TINY = ModelShape(layers=2, width=10, heads=2, kv_heads=1, head_dim=5, feed_forward=20, vocabulary=100, tied=True)
"""In layers 2 x (10 x 5 x (4 + 2) + 3 x 10 x 20) = 1,800; norms 10 x 5 = 50; embedding 1,000: 2,850 parameters."""


def shape_of_model(model: Any) -> ModelShape:
    found = shape_of_config(model.config.to_dict())
    assert found is not None
    return found


# Parameters


def test_parameters_of_a_shape_by_hand() -> None:
    assert (TINY.in_layers, TINY.parameters) == (1_800, 2_850)


@pytest.mark.parametrize("model", [tiny_llama(), tiny_llama(kv_heads=4), tiny_qwen()], ids=["llama", "llama-mha", "qwen2-tied"])
def test_parameters_are_those_of_the_model(model: Any) -> None:
    assert shape_of_model(model).parameters == sum(p.numel() for p in model.parameters())


def test_a_saved_reference_has_a_tied_head_twice() -> None:
    for model in (tiny_llama(), tiny_qwen()):
        assert shape_of_model(model).as_state == sum(tensor.numel() for tensor in model.state_dict().values())


def test_a_reward_model_has_one_score_in_place_of_a_vocabulary() -> None:
    for model in (tiny_llama(packed=False), tiny_qwen()):
        config = model.config.__class__.from_dict({**model.config.to_dict(), "num_labels": 1})
        scorer = AutoModelForSequenceClassification.from_config(config)
        assert shape_of_model(model).as_reward_model == sum(p.numel() for p in scorer.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2-135m", 134_515_008),
        ("Qwen/Qwen2.5-0.5B", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-Math-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-7B", 7_615_616_512),
        ("meta-llama/Llama-3.1-8B", 8_030_261_248),
    ],
)
def test_the_table_has_the_published_totals(name: str, parameters: int) -> None:
    assert KNOWN[name.rpartition("/")[2].lower()].parameters == parameters


def test_an_architecture_that_is_counted_otherwise_has_no_shape() -> None:
    config = LlamaConfig().to_dict()
    assert shape_of_config(config) is not None
    assert shape_of_config({**config, "model_type": "qwen3"}) is None  # its queries and keys have norms of their own
    assert shape_of_config({**config, "attention_bias": True}) is None
    assert shape_of("somebody/unheard-of") is None


def test_a_config_here_counts_more_than_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "qwen2.5-0.5b"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(tiny_llama().config.to_dict()))
    assert shape_of(str(folder)) == shape_of_model(tiny_llama())
    assert shape_of(str(tmp_path / "elsewhere" / "qwen2.5-0.5b")) == KNOWN["qwen2.5-0.5b"]


def test_names_of_the_hub_and_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_name("Qwen/Qwen2.5-0.5B")
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert not any(map(is_hub_name, ("models/mine", "./models/other", "/models/mine", "laptop", "a/b/c")))
    assert folder_here("models/mine") is None  # a folder without a config is no model


# Memory


def counted_to_kept(model: Any, half: bool) -> float:
    """Bytes counted of a token to those saved by a forward pass, without the first 32 tokens' share and the copies of weights."""
    shape = shape_of_model(model)
    prompt, length = 32, 96

    def saved(answers: int) -> int:
        seen: dict[int, Any] = {}
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.untyped_storage().data_ptr() not in own:
                seen[tensor.untyped_storage().data_ptr()] = tensor  # kept alive, or its place would be used again
            return tensor

        layout = PackedAttention([prompt], [length] * answers, [0] * answers, device=torch.device("cpu"))
        positions = torch.cat([torch.arange(prompt), *[torch.arange(prompt, prompt + length)] * answers])
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            backbone_forward(model, torch.zeros(len(positions), dtype=torch.long), positions, layout)
        return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())

    per_token = (saved(20) - saved(10)) / (10 * length)
    return shape.layers * layer_bytes(shape, tokens=1, longest=prompt + length, half=half) / per_token


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("model", [tiny_llama(), tiny_qwen()], ids=["llama", "qwen2"])
def test_a_layer_keeps_as_many_bytes_as_counted(model: Any, half: bool) -> None:
    assert counted_to_kept(model, half) == pytest.approx(1, rel=0.12)


def test_the_cache_has_as_many_bytes_as_counted() -> None:
    for model in (tiny_llama(), tiny_qwen()):
        cache = KVCache(model, rows=3, positions=64)
        assert cache_bytes(shape_of_model(model), 3 * 64) == cache.keys.nbytes + cache.values.nbytes + 20 * 3 * 64


@pytest.mark.parametrize(
    ("limits", "positions"),
    [
        # 300 tokens are rounded up to 320 positions a row
        ({"samples": 64, "token_budget": 1_000, "max_rows": 256}, 3 * 320),
        ({"samples": 64, "token_budget": 100_000, "max_rows": 8}, 8 * 320),
        ({"samples": 2, "token_budget": 100_000, "max_rows": 8}, 2 * 320),
        ({"samples": 64, "token_budget": 310, "max_rows": 8}, 310),
    ],
)
def test_rows_of_the_cache(limits: dict[str, int], positions: int) -> None:
    assert cached_positions(longest=300, **limits) == positions


def test_the_parts_of_a_peak_by_hand() -> None:
    # A layer keeps 50 x (48 x 10 + 16 x 20 + 4 x 25) = 45,000 bytes of 50 tokens; two layers and one at work, x 1.2.
    peak = training_peak(TINY, tokens=50, longest=25, half=False, checkpointing=False, reference=True, cache=7, reward_models=2)
    assert (peak.weights, peak.gradients, peak.moments, peak.reference) == (11_400, 11_400, 22_800, 11_400)
    assert peak.activations == 162_000
    assert peak.reward_models == 2 * 4 * (2_850 + 10)  # tied: the embedding stays, a score of 10 weights is added
    assert peak.half_copy == 0
    assert peak.head == 4 * 4 * 50 * 100 + 4 * 100 * 10  # of so few tokens less than the chunks
    assert peak.total == 11_400 * 3 + 22_800 + 162_000 + 22_880 + 84_000 + 7 + GIB


def test_checkpointing_keeps_inputs_and_works_on_two_layers() -> None:
    # bfloat16: a layer 50 x (38 x 10 + 8 x 20 + 2 x 25) = 29,500; inputs 2 x 50 x 10 x 4 = 4,000; (4,000 + 2 x 29,500) x 1.2
    peak = training_peak(TINY, tokens=50, longest=25, half=True, checkpointing=True)
    assert (peak.activations, peak.half_copy, peak.reference) == (75_600, 3_600, 0)


def test_the_head_is_bounded_by_its_chunks() -> None:
    assert head_bytes(KNOWN["qwen2.5-7b"], tokens=100_000) == 640 * 2**20 + 4 * 152_064 * 3584


def test_sampling_processes_have_weights_and_caches_of_their_own() -> None:
    one = sampling_peak(TINY, half=False, cache=100)
    three = sampling_peak(TINY, half=False, cache=100, processes=3, moments=True)
    assert (one.weights, one.moments, one.cache) == (11_400, 0, 100)
    assert (three.weights, three.moments, three.cache) == (4 * 11_400, 22_800, 300)


# Disk, tokens, time


def test_checkpoints_on_disk_by_hand() -> None:
    assert (checkpoint_bytes(100), checkpoint_bytes(100, reference=110)) == (1_200, 1_640)
    assert checkpoints_on_disk(10, steps=200, every=100, keep=3) == 20
    assert checkpoints_on_disk(10, steps=250, every=100, keep=3) == 30  # the last step is saved, too
    assert checkpoints_on_disk(10, steps=400, every=100, keep=3) == 40  # the fourth is whole before the first goes


def test_rollouts_serve_all_their_updates() -> None:
    # 10 steps of 4 updates are 3 rollouts, from steps 0, 4 and 8 on, with caps 100, 100 and 200; each of 8 x 4 answers.
    settings = TrainSettings.model_validate(
        {
            "steps": 10,
            "grpo": {"mini_batches": 4},
            "rollout": {"prompts_per_rollout": 8, "group_size": 4, "max_new_tokens": 100, "max_new_tokens_from_step": {8: 200}},
            "evaluate_every": 3,
        }
    )
    found = rollouts_of(settings)
    assert (found.samples, found.sampled, found.trained, found.updates) == (96, 32 * 400, 32 * 400, 12)
    assert probes_of(settings) == 2  # after steps 4 and 8; step 12 is the end
    assert probes_of(settings.model_copy(update={"evaluate_every": None})) == 0


def test_updates_and_seconds_by_hand() -> None:
    assert updates_of(10, batch_size=4, epochs=2) == 6
    assert speed_of("300,150").seconds(sampled=600, trained=300) == 4.0


@pytest.mark.parametrize("text", ["300", "a,b", "0,1", "nan,1", "1,2,3", "inf,1"])
def test_a_speed_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--speed is"):
        speed_of(text)


def test_figures_are_short() -> None:
    assert [short(x) for x in (0, 9_999, 12_345, 1_234_567, 7_615_616_512)] == ["0", "9999", "12 k", "1.2 M", "7.6 G"]
    assert [duration(x) for x in (90, 7_200, 300_000)] == ["2 min", "2.0 h", "3.5 days"]
    assert aligned([["stage", "n"], ["a", "10"]]) == ["  stage   n", "  a      10"]


# Recipes


QUESTIONS = [
    {"question": f"What is {n} plus {n} , and nothing else than that number {n} times 2 ?", "answer": str(2 * n)} for n in range(12)
]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A recipe for files, all of them here: 6 problems, 3 held out, 2 general dialogues, 3 requests, 4 pairs, 5 labels."""
    monkeypatch.chdir(tmp_path)

    def forbidden(*_: Any) -> None:
        raise AssertionError("a dry run asks no network")

    monkeypatch.setattr(socket.socket, "connect", forbidden)
    rows: dict[str, list[dict[str, Any]]] = {
        "train": QUESTIONS[:6],
        "test": QUESTIONS[6:9],
        "general": [{"prompt": f"Tell me {n}.", "completion": "No."} for n in range(2)],
        "requests": [{"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": "Harm?", "set": "harmless"}],
        "pairs": [{"prompt": f"Which {n}?", "chosen": "This.", "rejected": "That."} for n in range(4)],
        "labels": [{"prompt": f"Which {n}?", "response": "This.", "safe": n > 2} for n in range(5)],
    }
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    sft = {"batch_size": 4, "max_length": 256}
    rl = {"rollout": {"max_new_tokens": 40, "max_new_tokens_from_step": {}}, "steps": 16}
    return {
        "model": str(untrained(tmp_path / "base")),
        "data": {"train": "train.jsonl", "held_out": "test.jsonl"},
        "zero": rl,
        "cold_start": {"problems": 100, "sample": {"max_new_tokens": 40}, "sft": sft},
        "reasoning_rl": rl,
        "rejection_sft": {
            "problems": 100, "sample": {"samples": 3, "max_new_tokens": 40}, "general": {"source": "general.jsonl"}, "sft": sft,
        },
        "requests": {"train": "requests.jsonl"},
        "reward_models": {"pairs": "pairs.jsonl", "labels": "labels.jsonl", "helpful": {"held_out_share": 0.5, "batch_size": 2}},
        "all_scenarios": {**rl, "general": {"from_step": 8}},
        "evaluation": {"max_new_tokens": 40, "probes": 0},
    }  # fmt: skip


def test_files_that_are_here_bound_what_is_counted(files: dict[str, Any]) -> None:
    looked = dry_run(PipelineSettings.model_validate(files))
    assert looked.faults == () and looked.missing == {} and looked.can_run
    rows = looked.rows
    assert (rows.problems, rows.held_out, rows.general, rows.pairs, rows.labels) == (6, 3, 2, 4, 5)
    assert rows.requests == {"helpful": 2, "harmless": 1}
    plans = looked.plans
    # One rollout of 512 x 16 answers, and 2 evaluations of 3 problems x 8 answers.
    assert (plans["zero"].total("samples"), plans["zero"].total("updates")) == (8192 + 48, 16)
    # 6 problems x 4 answers and an evaluation; one sample a problem is kept: 2 epochs of 2 batches.
    assert (plans["cold_start"].total("samples"), plans["cold_start"].total("updates")) == (24 + 24, 4)
    # 6 x 3 kept, and a third of that from general data, of which 2 are there: 20 examples, 2 x 5 updates.
    assert plans["rejection_sft"].total("updates") == 10
    assert any("the mix needs 6 general samples, and 2 are there" in note for note in looked.notes)
    # 2 of 4 pairs in one batch of 2, 4 or 5 labels in one of 256.
    assert plans["reward_models"].total("updates") == 2
    assert all(plan.peak is not None and plan.peak.total < 16 * GIB for name, plan in plans.items() if name != "base")


def test_everything_missing_is_listed_at_once_by_its_option(files: dict[str, Any]) -> None:
    files = {**files, "decontaminate": ["exam.jsonl"], "claims": "claims.yaml", "distillation": {"model": "./student"}}
    files["zero"] = {**files["zero"], "reward": {"weights": {"mine.py:f": 1.0}, "allow_neural": True}}
    for name in ("test", "general", "pairs"):
        Path(f"{name}.jsonl").unlink()
    looked = dry_run(PipelineSettings.model_validate(files))
    assert looked.missing == {
        "distillation.model": "./student",
        "data.held_out": "test.jsonl",
        "rejection_sft.general.source": "general.jsonl",
        "reward_models.pairs": "pairs.jsonl",
        "claims": "claims.yaml",
        "decontaminate[0]": "exam.jsonl",
        "zero.reward.weights": "mine.py",
    }
    assert not looked.can_run
    assert looked.plans["cold_start"].total("samples") == 100 * 4 + 256 * 8  # the recipe's numbers, where there is no file to count
    assert looked.plans["reward_models"].unknown


def test_what_would_be_fetched_is_said_and_not_fetched(files: dict[str, Any]) -> None:
    files = {**files, "model": "Qwen/Qwen2.5-0.5B-not-here", "data": {"train": "owner/name", "held_out": "test.jsonl"}}
    looked = dry_run(PipelineSettings.model_validate(files))
    assert looked.can_run
    assert looked.notes == ("data.train: owner/name is fetched from the Hub when the run starts",)
    assert "the base stage fetches it from the Hub" in looked.models["policy"].says
    assert looked.plans["zero"].peak is None  # its shape is not known


def test_a_base_without_a_chat_template_is_a_fault(files: dict[str, Any]) -> None:
    (Path(files["model"]) / "chat_template.jinja").unlink()
    looked = dry_run(PipelineSettings.model_validate(files))
    assert [fault for fault in looked.faults if "has no chat template" in fault] == list(looked.faults) != []


@pytest.mark.parametrize(
    ("section", "changes", "fault"),
    [
        # The longest prompt has 69 tokens, R1-Zero's template and 12 to 17 words of a question; the context is 1,024.
        ("zero", {"rollout": {"max_new_tokens": 1024}}, "zero.rollout.max_new_tokens: a prompt of"),
        ("cold_start", {"sample": {"max_new_tokens": 40, "token_budget": 100}}, "tokens exceed a sampler's budget of 100 positions"),
        ("evaluation", {"max_new_tokens": 1024}, "evaluation.max_new_tokens: a prompt of"),
    ],
)
def test_answers_that_the_sampler_would_refuse_are_faults(files: dict[str, Any], section: str, changes: dict[str, Any], fault: str) -> None:
    looked = dry_run(PipelineSettings.model_validate({**files, section: {**files[section], **changes}}))
    assert any(fault in found for found in looked.faults), looked.faults
    assert not looked.can_run


def test_rows_that_cannot_be_used_are_a_fault_and_no_crash(files: dict[str, Any]) -> None:
    Path("labels.jsonl").write_text('{"prompt": "Which?", "response": "This.", "safe": "perhaps"}\n')
    looked = dry_run(PipelineSettings.model_validate(files))
    assert any("labels.jsonl:1" in fault for fault in looked.faults)


def test_prompts_are_shown_with_their_special_tokens(files: dict[str, Any]) -> None:
    looked = dry_run(PipelineSettings.model_validate({**files, "data": {**files["data"], "template": "Question : {question} Answer :"}}))
    asked = looked.models["policy"].tokenizer
    assert asked is not None
    start, end = asked.convert_tokens_to_ids("<|im_start|>"), asked.convert_tokens_to_ids("<|im_end|>")
    assert looked.prompts["zero"].endswith("special: <unk> 0)")
    assert looked.prompts["reasoning_rl"].startswith("'<|im_start|> user")
    assert f"<|im_start|> {start}, " in looked.prompts["reasoning_rl"]
    learnt = looked.prompts["cold_start"].partition("learns ")[2]
    assert learnt.startswith("'<think>") and "<|im_end|>'" in learnt and f"<|im_end|> {end}" in learnt


def written(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*")}


@pytest.mark.parametrize("whole", [True, False])
def test_the_command_prints_every_stage_writes_nothing_and_says_by_its_status_whether_it_could_run(
    files: dict[str, Any], whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(json.dumps(files))  # JSON is YAML
    if not whole:
        Path("pairs.jsonl").unlink()
    before = written(tmp_path)
    monkeypatch.setattr(sys, "argv", ["zero2r1", "pipeline", "recipe.yaml", "--dry-run", "--speed", "100,50", "--zero.steps=32"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out = capsys.readouterr().out
    assert ended.value.code == (0 if whole else 2)
    assert ("  reward_models.pairs: pairs.jsonl" in out) is not whole
    assert "rollouts: 2 x 512 prompts x 16 answers, cap 40; 16 updates each" in out
    assert "left out: Distillation (the recipe names no student: distillation.model)" in out
    assert "time = tokens sampled / 100 a second + tokens trained / 50 a second" in out
    assert written(tmp_path) == before


def test_the_page_says_how_to_learn_the_time_where_no_speed_is_given(files: dict[str, Any]) -> None:
    looked = dry_run(PipelineSettings.model_validate(files))
    assert "Give --speed DECODE,TRAIN" in page(looked, recipe="r.yaml", speed=None)
    seconds = 100.0 * looked.plans["zero"].total("sampled")
    shown = page(looked, recipe="r.yaml", speed=speed_of("0.01,1e12"))
    assert next(line for line in shown.splitlines() if line.startswith("  R1-Zero")).endswith(duration(seconds))
