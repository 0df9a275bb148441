"""What a GPU does: a GRPO step beside a plain loop and TRL, decoding against its bound, training against its peak, long completions.

    python benchmarks/gpu.py --json gpu.json
    python benchmarks/gpu.py --parts decode mfu --json gpu.json
    python benchmarks/gpu.py --smoke --json smoke.json

Needs no network: models are random, of the shapes below. A part that fails is recorded with what it said, and the others run. ``--smoke``
runs every part in toy shapes on a CPU, where figures mean nothing.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from plain_side import run_plain
from step_sides import run_trl, run_zero2r1
from step_workload import CASES, EOS, Case, draw_batch, save_model

QWEN_1_5B = Case(
    family="qwen2", layers=28, width=1536, heads=12, kv_heads=2, feed_forward=8960, vocabulary=151_936,
    prompts=8, group=16, cap=512, micro_batch=8, without_signal=2,
)  # fmt: skip
SMOLLM2_135M = replace(CASES["b135"], prompts=16, group=16, cap=512, micro_batch=32, without_signal=4)
TOY = replace(CASES["tiny64"], prompts=2, group=4, cap=12, micro_batch=4, without_signal=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much each part does."""

    step_cases: Mapping[str, Case]
    model: Case
    steps: int
    rows: tuple[int, ...]
    new_tokens: int
    mfu_samples: tuple[int, int]  # completions, tokens of each
    mfu_micro_batch: int
    long_samples: tuple[int, int]
    long_micro_batch: int
    copied: int  # bytes
    product: int  # width of a square matrix


FULL = Sizes(
    step_cases=MappingProxyType({"smollm2-135m": SMOLLM2_135M, "qwen2-1.5b": QWEN_1_5B}), model=QWEN_1_5B, steps=3, rows=(1, 32, 256),
    new_tokens=256, mfu_samples=(32, 992), mfu_micro_batch=8192, long_samples=(16, 8192), long_micro_batch=33_000, copied=4 * 2**30,
    product=8192,
)  # fmt: skip
SMOKE = Sizes(
    step_cases=MappingProxyType({"toy": TOY}), model=TOY, steps=1, rows=(1, 3), new_tokens=8, mfu_samples=(4, 16), mfu_micro_batch=64,
    long_samples=(2, 40), long_micro_batch=64, copied=2**20, product=128,
)  # fmt: skip
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MATCH = replace(CASES["tiny64"], layers=4)


def finished() -> None:
    """Wait until the device has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], *, repeats: int = 5, warm: int = 2) -> float:
    """Median seconds of one call."""
    for _ in range(warm):
        work()
    found = []
    for _ in range(repeats):
        finished()
        began = time.perf_counter()
        work()
        finished()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def bandwidth(sizes: Sizes) -> float:
    """Bytes a second of a copy, read and written."""
    source = torch.empty(sizes.copied, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * sizes.copied / seconds_of(lambda: target.copy_(source))


def peak_flops(sizes: Sizes) -> float:
    """Operations a second of a product of square bfloat16 matrices."""
    left, right = (torch.randn(sizes.product, sizes.product, device=DEVICE).to(torch.bfloat16) for _ in range(2))
    return 2 * sizes.product**3 / seconds_of(lambda: left @ right, repeats=10)


def random_model(case: Case, *, positions: int, device: torch.device = DEVICE) -> Any:
    """A model of a shape with random weights in float32, ready for packs."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from zero2r1.models.attention import use_packed_attention

    config_class, model_class = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[case.family]
    config = config_class(
        vocab_size=case.vocabulary, hidden_size=case.width, intermediate_size=case.feed_forward, num_hidden_layers=case.layers,
        num_attention_heads=case.heads, num_key_value_heads=case.kv_heads, max_position_embeddings=positions, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    with device:
        model = model_class(config).eval()
    use_packed_attention(model)
    return model


def samples_of(count: int, tokens: int, *, vocabulary: int, groups: int = 2) -> list[Any]:
    """Completions of one length behind prompts of 32 tokens, as if drawn uniformly, with made-up advantages."""
    from zero2r1.types import TrainingSample

    random = torch.Generator().manual_seed(0)

    def draw(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(2, vocabulary, (length,), generator=random).tolist())

    prompts = [draw(32) for _ in range(groups)]
    return [
        TrainingSample(
            group=i % groups, prompt_ids=prompts[i % groups], completion_ids=draw(tokens), weights=(1 / (count * tokens),) * tokens,
            advantage=float(i // groups % 2 * 2 - 1), sampler_logprobs=(-math.log(vocabulary),) * tokens,
        )
        for i in range(count)
    ]  # fmt: skip


def updater(model: Any, samples: Sequence[Any], compute: Any) -> tuple[Callable[[], Any], int]:
    """One update of a model as a call, and the tokens of its packs."""
    from zero2r1.grpo.config import GrpoSettings
    from zero2r1.grpo.update import fix_logprobs, policy_update
    from zero2r1.training.optimizer import build_adamw
    from zero2r1.training.step import prepare_model

    prepare_model(model, compute)
    optimizer = build_adamw(model, learning_rate=1e-6, betas=(0.9, 0.95), weight_decay=0.0)
    packs = fix_logprobs(samples, model, None, temperature=1.0, old="sampler", settings=compute)
    passes: dict[str, Any] = {"temperature": 1.0, "max_grad_norm": 1.0, "grpo": GrpoSettings(beta=0.0), "compute": compute}
    return lambda: policy_update(model, [optimizer], packs, **passes), sum(len(fixed.batch.input_ids) for fixed in packs)


# The parts


def part_step(sizes: Sizes) -> dict[str, Any]:
    """A GRPO step of every side at every shape: median seconds by phase, tokens a second, peak memory."""
    sides = {"zero2r1": run_zero2r1, "plain": run_plain, **({"trl": run_trl} if find_spec("trl") else {})}
    result: dict[str, Any] = {}
    for name, case in sizes.step_cases.items():
        result[name] = {"case": asdict(case)}
        batches = [draw_batch(case, 1 + i) for i in range(1 + sizes.steps)]
        with tempfile.TemporaryDirectory() as folder:
            save_model(case, Path(folder))
            for side, run in sides.items():
                result[name][side] = guarded(lambda run=run, case=case, folder=folder, batches=batches: _side(run, case, folder, batches))
    return result


def _side(run: Callable[..., Any], case: Case, folder: str, batches: Sequence[Any]) -> dict[str, Any]:
    steps = run(case, Path(folder), batches, "bfloat16").steps[1:]
    phases = {phase: statistics.median(step[phase] for step in steps) for phase in steps[0]}
    rate = statistics.median(sum(batch.lengths) / step["step"] for batch, step in zip(batches[1:], steps, strict=True))
    return {"seconds": phases, "completion_tokens_per_s": rate, **memory()}


def part_decode(sizes: Sizes) -> dict[str, Any]:
    """Tokens a second by rows, captured and exact, and the share of what reading every weight once a step allows."""
    from zero2r1.rollout.engine import Request, SamplingParams, generate
    from zero2r1.rollout.torch_engine import TorchEngine

    model = random_model(sizes.model, positions=4096)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    read, moved = 2 * sum(linear.weight.numel() for linear in linears), bandwidth(sizes)
    params = SamplingParams(max_new_tokens=sizes.new_tokens, stop_token_ids=())
    result: dict[str, Any] = {"bandwidth": moved, "weight_bytes": read, "rows": {}}
    for name, resident in (("captured", True), ("exact", False)):
        for rows in sizes.rows:
            engine = TorchEngine(model, str, autocast=torch.bfloat16, half_head=True, resident=resident, max_rows=rows)
            ask = [Request(id=0, prompt_ids=tuple(range(2, 34)), seeds=tuple(range(rows)), params=params)]
            # Twice before: a bucket's first step runs as it is, its second is captured.
            took = seconds_of(lambda engine=engine, ask=ask: generate(engine, ask), repeats=2 if resident else 1, warm=2 if resident else 1)
            rate = rows * sizes.new_tokens / took
            result["rows"].setdefault(str(rows), {})[name] = {"tokens_per_s": rate, "share_of_bound": rate * read / (rows * moved)}
            del engine
    return result


def part_mfu(sizes: Sizes) -> dict[str, Any]:
    """An update's operations, 6 a parameter and token, against those of a product of matrices in the same time."""
    from zero2r1.training.config import ComputeSettings

    model = random_model(sizes.model, positions=4096)
    samples = samples_of(*sizes.mfu_samples, vocabulary=sizes.model.vocabulary)
    update, tokens = updater(model, samples, ComputeSettings(dtype="bfloat16", tokens_per_micro_batch=sizes.mfu_micro_batch))
    took, parameters, peak = seconds_of(update, repeats=3, warm=1), sum(p.numel() for p in model.parameters()), peak_flops(sizes)
    return {
        "seconds": took, "tokens": tokens, "parameters": parameters, "gemm_flops": peak, "mfu": 6 * parameters * tokens / took / peak,
        "tokens_per_s": tokens / took, **memory(),
    }  # fmt: skip


def part_long(sizes: Sizes) -> dict[str, Any]:
    """One update of long completions with gradient checkpointing: seconds and peak memory."""
    from zero2r1.training.config import ComputeSettings

    model = random_model(sizes.model, positions=16_384)
    samples = samples_of(*sizes.long_samples, vocabulary=sizes.model.vocabulary, groups=1)
    compute = ComputeSettings(dtype="bfloat16", gradient_checkpointing=True, tokens_per_micro_batch=sizes.long_micro_batch)
    update, tokens = updater(model, samples, compute)
    took = seconds_of(update, repeats=1, warm=1)
    return {"completions": sizes.long_samples[0], "tokens_each": sizes.long_samples[1], "tokens": tokens, "seconds": took, **memory()}


def part_match(sizes: Sizes) -> dict[str, Any]:
    """Loss and gradient norm of one update: here in bfloat16 and float32, beside a CPU in float32."""
    from zero2r1.training.config import ComputeSettings

    samples = samples_of(16, 48, vocabulary=MATCH.vocabulary)
    result: dict[str, Any] = {}
    cpu = torch.device("cpu")
    for name, device, dtype in (("cpu float32", cpu, "float32"), ("float32", DEVICE, "float32"), ("bfloat16", DEVICE, "bfloat16")):
        model = random_model(MATCH, positions=1024, device=cpu).to(device)
        stats = updater(model, samples, ComputeSettings(dtype=dtype))[0]()
        result[name] = {"loss": stats.loss, "grad_norm": stats.grad_norm}
    base = result["cpu float32"]["grad_norm"]
    return {**result, "grad_norm_off_by": {name: result[name]["grad_norm"] / base - 1 for name in ("float32", "bfloat16")}}


PARTS: Mapping[str, Callable[[Sizes], dict[str, Any]]] = MappingProxyType(
    {"match": part_match, "decode": part_decode, "mfu": part_mfu, "long": part_long, "step": part_step}
)


def memory() -> dict[str, float]:
    """Peak memory of the device since a part began."""
    return {"peak_gib": torch.cuda.max_memory_allocated() / 2**30} if DEVICE.type == "cuda" else {}


def guarded(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a part found, or what it said when it failed; memory of the one before is gone."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return work()
    except Exception as error:  # what fails is recorded, and a machine that is lent by the minute goes on with the next
        return {"error": {"type": type(error).__name__, "message": str(error)[:2000]}}


def machine() -> dict[str, Any]:
    import transformers

    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else platform.processor() or platform.machine()
    return {"device": name, "torch": torch.__version__, "transformers": transformers.__version__, "python": platform.python_version()}


def main() -> None:
    """Measure, print, and write after every part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--smoke", action="store_true", help="toy shapes, to see that every part runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"machine": machine(), "smoke": arguments.smoke, "parts": {}}
    for name in arguments.parts:
        began = time.perf_counter()
        found["parts"][name] = guarded(lambda name=name: PARTS[name](SMOKE if arguments.smoke else FULL))
        print(f"{name}, {time.perf_counter() - began:.0f} s: {json.dumps(found['parts'][name])}", flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
