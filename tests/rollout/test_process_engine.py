"""The engine of several processes: it samples what one process would, and leaves nothing behind, whoever dies."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny_models import tiny_llama
from zero2r1.models.tokenizer import word_tokenizer
from zero2r1.rollout.engine import Request, SamplingParams, generate
from zero2r1.rollout.engine_worker import SharedWeights
from zero2r1.rollout.process_engine import FEWEST_SAMPLES, MEMORY, ProcessEngine, deal, end_idle_children, one_thread
from zero2r1.rollout.torch_engine import TorchEngine

PARAMS = SamplingParams(max_new_tokens=24, stop_token_ids=(1, 2))
LIMIT_S = 120
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def limit():
    """A hang is a failure, not a stuck suite."""

    def ring(number, frame):
        raise AssertionError(f"still not done after {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LIMIT_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def words(ids):
    return " ".join(map(str, ids))


def requests(count=8, group=8, params=PARAMS, forced=()):
    """8 x 8 are the 64 samples from which on two processes share."""
    return [
        Request(
            id=10 + i,
            prompt_ids=tuple(3 + k % 61 for k in range(i, 5 + 2 * i)),
            seeds=tuple(100 * i + j for j in range(group)),
            params=params,
            forced_ids=forced,
        )
        for i in range(count)
    ]


def engine_over(model, decode=words, **options):
    def save(folder):
        model.save_pretrained(folder)
        word_tokenizer([f"w{i}" for i in range(8)], []).save_pretrained(folder)

    return ProcessEngine(model, decode, **{"processes": 2, "save": save, **options})


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


@pytest.fixture(scope="module")
def engine(model):
    """Shared, because a child takes seconds to start. A test that ends children builds its own."""
    engine = engine_over(model)
    yield engine
    engine.close()
    end_idle_children()


def assert_equal_but_for_rounding(answered, expected):
    for ours, theirs in zip((c for g in answered for c in g), (c for g in expected for c in g), strict=True):
        rounded = replace(ours, segments=theirs.segments)
        assert rounded == theirs
        assert ours.token_ids == theirs.token_ids and ours.loss_mask == theirs.loss_mask
        assert max(abs(a - b) for a, b in zip(ours.logprobs, theirs.logprobs, strict=True)) <= 1e-5


def gone(pid):
    """Whether a process has ended, collected or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until_gone(pid):
    while not gone(pid):
        time.sleep(0.02)


def test_dealing_by_hand():
    # Two requests of 3 and one of 1, in the order a0 b0 c0 a1 b1 a2 b2: 7 samples are cut after the third.
    a, b, c = (replace(request, seeds=request.seeds[:n]) for request, n in zip(requests(3), (3, 3, 1), strict=True))
    first, second = deal([a, b, c], 2)
    assert [(p.request.id, p.first, p.request.seeds) for p in first] == [(10, 0, (0,)), (11, 0, (100,)), (12, 0, (200,))]
    assert [(p.request.id, p.first, p.request.seeds) for p in second] == [(10, 1, (1, 2)), (11, 1, (101, 102))]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=30), processes=st.integers(1, 5))
def test_every_sample_is_dealt_once_and_evenly(sizes, processes):
    asked = [replace(r, seeds=tuple(range(n))) for r, n in zip(requests(len(sizes)), sizes, strict=True)]
    dealt = deal(asked, processes)
    found = [(p.request.id, p.first + j, seed) for pieces in dealt for p in pieces for j, seed in enumerate(p.request.seeds)]
    assert sorted(found) == [(r.id, j, j) for r in asked for j in range(len(r.seeds))]
    counts = [sum(len(p.request.seeds) for p in pieces) for pieces in dealt]
    assert len(counts) == processes and max(counts) - min(counts) <= 1


def test_two_processes_sample_what_one_does(model, engine):
    alone, asked = TorchEngine(model, words), requests(forced=(5, 6))
    before = engine.decoded_rows, engine.prefills
    answered = generate(engine, asked)
    (child,) = engine.children
    assert os.getsid(child) == child  # a session of its own, which Ctrl-C does not reach
    assert_equal_but_for_rounding(answered, generate(alone, asked))
    assert {c.finish_reason for group in answered for c in group} == {"stop", "length"}
    assert engine.decoded_rows - before[0] == alone.decoded_rows  # no row is computed twice
    assert engine.prefills - before[1] == 2 * alone.prefills  # each process has a part of each group of 8


def test_the_same_requests_give_the_same_bytes(engine):
    assert generate(engine, requests()) == generate(engine, requests())


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_a_childs_share_is_to_the_last_bit_what_one_engine_samples_of_it(model, autocast):
    several = engine_over(model, autocast=autocast)
    answered = {request.id: group for request, group in zip(requests(), generate(several, requests()), strict=True)}
    several.close()
    _, share = deal(requests(), 2)
    with one_thread():
        expected = generate(TorchEngine(model, words, autocast=autocast), [piece.request for piece in share])
    assert [answered[piece.request.id][piece.first :] for piece in share] == expected
    assert several.exact == (autocast is None)


def test_three_processes_with_a_nucleus_and_a_temperature(model):
    params = SamplingParams(max_new_tokens=24, stop_token_ids=(1, 2), temperature=0.7, top_p=0.9, top_k=20)
    several, asked = engine_over(model, processes=3, max_rows=7), requests(12, 8, params)
    try:
        assert_equal_but_for_rounding(generate(several, asked), generate(TorchEngine(model, words), asked))
        assert len(several.children) == 2
    finally:
        several.close()


def test_children_sample_from_the_weights_as_they_are_now(model, engine):
    before = generate(engine, requests())
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)  # as an optimizer does it: in place, and nobody is told
    try:
        after = generate(engine, requests())
        assert_equal_but_for_rounding(after, generate(TorchEngine(model, words), requests()))
    finally:
        with torch.no_grad():
            model.lm_head.weight.div_(1.5)
    changed = [[a.token_ids != b.token_ids for a, b in zip(*groups, strict=True)] for groups in zip(before, after, strict=True)]
    assert any(group[0] for group in changed) and any(group[7] for group in changed)  # sample 7 is a child's


def test_given_weights_reach_the_children_with_their_version(model, engine):
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    other = tiny_llama(seed=1)
    engine.load_weights(other.state_dict(), 7)
    answered = generate(engine, requests())
    engine.load_weights(own, 0)
    expected = TorchEngine(other, words)
    expected.load_weights(None, 7)
    assert_equal_but_for_rounding(answered, generate(expected, requests()))


def test_a_stream_left_early_is_continued_and_holds_the_weights(model, engine):
    engine.submit(requests())
    stream = engine.stream()
    first = next(stream)
    stream.close()
    with pytest.raises(RuntimeError, match="while completions are under way"):
        engine.load_weights(None, 1)
    with pytest.raises(ValueError, match="ids must be new"):
        engine.submit(requests())
    found = {(f.request_id, f.index): f.completion for f in (first, *engine.stream())}
    expected = generate(TorchEngine(model, words), requests())
    assert_equal_but_for_rounding([[found[r.id, j] for j in range(8)] for r in requests()], expected)


def test_what_is_submitted_meanwhile_is_served_too(engine):
    engine.submit(requests())
    stream = engine.stream()
    served = [next(stream)]
    engine.submit([replace(requests()[0], id=99)])
    served += stream
    assert sorted((f.request_id, f.index) for f in served) == [(i, j) for i in (*range(10, 18), 99) for j in range(8)]


def test_few_samples_start_no_child(model):
    several, asked = engine_over(model), requests(9, 7)
    assert 2 * FEWEST_SAMPLES == 9 * 7 + 1
    assert generate(several, asked) == generate(TorchEngine(model, words), asked)
    assert several.children == ()


def test_a_request_that_is_too_long_is_refused_as_by_one_process(model):
    several = engine_over(model, token_budget=512)
    for tokens in (600, 2000):  # over the budget, over the context
        asked = [*requests(), Request(id=0, prompt_ids=(3,), seeds=(0,), params=replace(PARAMS, max_new_tokens=tokens))]
        with pytest.raises(ValueError) as refused:
            several.submit(asked)
        with pytest.raises(ValueError) as expected:
            TorchEngine(model, words, token_budget=512).submit(asked)
        assert str(refused.value) == str(expected.value)
    assert list(several.stream()) == [] and several.children == ()


def test_models_it_cannot_sample_are_refused():
    with pytest.raises(ValueError, match="float32 models on a CPU only"):
        engine_over(tiny_llama().to(torch.bfloat16))
    with pytest.raises(ValueError, match="at least 2, got 1"):
        engine_over(tiny_llama(), processes=1)


def test_one_thread_while_sampling_and_the_callers_number_else(model, engine):
    before = torch.get_num_threads()
    inside, outside = set(), set()
    watched = engine_over(model, lambda ids: inside.add(torch.get_num_threads()) or "")
    broken = engine_over(model, lambda ids: {}["no such text"])
    torch.set_num_threads(2)
    try:
        watched.submit(requests(2, 2))
        outside.update(torch.get_num_threads() for _ in watched.stream())
        with pytest.raises(KeyError):
            generate(broken, requests(2, 2))
        assert (inside, outside, torch.get_num_threads()) == ({1}, {2}, 2)
    finally:
        torch.set_num_threads(before)
    with pytest.raises(RuntimeError, match="cannot be used any more: it failed with KeyError"):
        broken.submit(requests())


def test_a_child_killed_while_it_samples_is_an_error_and_no_hang(model):
    several = engine_over(model)
    generate(several, requests())
    (child,) = several.children
    os.kill(child, signal.SIGSTOP)  # so that it has surely not finished its share
    several.submit(requests())
    stream = several.stream()
    next(stream)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=rf"pid {child}\) was killed by SIGKILL"):
        list(stream)
    with pytest.raises(RuntimeError, match="cannot be used any more"):
        several.submit(requests())


def test_a_child_killed_while_it_is_idle_is_an_error_and_one_that_cannot_start_too(model):
    several = engine_over(model)
    generate(several, requests())
    os.kill(several.children[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match="was killed by SIGKILL"):
        generate(several, requests())
    empty = engine_over(model, save=lambda folder: None)  # no model for the child to load
    with pytest.raises(RuntimeError, match="ended with code 1; what it said stands above"):
        generate(empty, requests())
    assert empty.children == ()


def test_a_child_in_the_middle_of_sampling_ends_with_its_engine(model):
    for forget in (False, True):
        several = engine_over(model)
        generate(several, requests())
        (child,) = several.children
        os.kill(child, signal.SIGSTOP)  # so that it has surely not finished its share
        several.submit(requests())
        stream = several.stream()
        next(stream)
        assert not gone(child)
        del stream
        if forget:
            del several
            gc.collect()
        else:
            several.close()
            with pytest.raises(RuntimeError, match="it was closed"):
                generate(several, requests())
        wait_until_gone(child)


def test_a_child_that_is_done_serves_the_next_engine_with_its_own_model(model):
    end_idle_children()
    for forget in (False, True):
        first = engine_over(model)
        generate(first, requests())
        (child,) = first.children
        if forget:
            del first
            gc.collect()
        else:
            first.close()
        assert not gone(child)
        other = tiny_llama(seed=1)
        second = engine_over(other)
        answered = generate(second, requests())
        assert second.children == (child,)
        assert_equal_but_for_rounding(answered, generate(TorchEngine(other, words), requests()))
        second.close()
    end_idle_children()
    wait_until_gone(child)


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_idle_children_sleep(engine):
    generate(engine, requests())
    (child,) = engine.children
    threads = list(Path(f"/proc/{child}/task").iterdir())
    time.sleep(0.2)  # its last answer may be here before it has gone back to sleep
    for _ in range(20):
        assert {(t / "stat").read_text().rpartition(")")[2].split()[0] for t in threads} == {"S"}
        time.sleep(0.01)


PARENT = """
import sys
from dataclasses import replace
from tests.rollout.test_process_engine import PARAMS, engine_over, requests
from tests.tiny_models import tiny_llama
engine = engine_over(tiny_llama())
caps = range(20, 820, 20)  # in both processes something ends now and then, and most is long
engine.submit([replace(r, params=replace(PARAMS, max_new_tokens=cap, stop_token_ids=())) for r, cap in zip(requests(40, 8), caps)])
for finished in engine.stream():
    if finished.index >= int(sys.argv[1]):
        print(*engine.children, flush=True)
"""


@pytest.mark.parametrize("index", [0, 4], ids=["the child starts", "both sample"])
def test_children_end_when_their_parent_is_killed(index, tmp_path):
    """The parent's first completion comes before the child has started; sample 4 is one of the child's."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    shared = Path(MEMORY)
    before = set(shared.glob("zero2r1-*"))
    command = [sys.executable, "-c", PARENT, str(index)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        child = int(parent.stdout.readline())
        assert not gone(child)
        parent.kill()
    wait_until_gone(child)
    assert list(tmp_path.glob("zero2r1-*")) == []
    assert set(shared.glob("zero2r1-*")) <= before


def test_shared_weights_are_read_as_they_were_written(tmp_path):
    ours, theirs = tiny_llama(), tiny_llama(seed=1)
    with (tmp_path / "block").open("w+b") as file:
        writer, reader = SharedWeights(ours, file.fileno()), SharedWeights(theirs, file.fileno())
        with pytest.raises(AssertionError, match="another model's"):
            SharedWeights(tiny_llama(vocab=80), file.fileno())
    writer.write(ours)
    theirs.load_state_dict(reader.read())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert {tensor.data_ptr() % 64 for tensor in reader.read().values()} == {0}
