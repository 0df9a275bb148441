"""From candidates to kept samples: planted faults are found, the funnel adds up, and no order of the input matters."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zero2r1.config import load_settings
from zero2r1.rejection_sampling import (
    STATIONS,
    Funnel,
    candidates,
    grade_by_judge,
    grade_by_rules,
    mix,
    rules_then_judge,
    select,
)
from zero2r1.rewards.accuracy import VERIFIERS, accuracy_reward
from zero2r1.rewards.combine import RewardError, make_grader
from zero2r1.rewards.config import RejectionSettings
from zero2r1.rewards.judge import judge
from zero2r1.samples import Lineage, Rejection, Sample, sample_from_row, sample_to_row
from zero2r1.types import Completion, Problem, Reward, Segment

LINEAGE = Lineage(source="dev2", checkpoint="abc", sampler={"temperature": 1.0})
RIGHT = '{"analysis": "Both say so.", "verdict": "correct"}'
WRONG = '{"analysis": "They differ.", "verdict": "incorrect"}'
DEFAULT = RejectionSettings()


def problem(name: str = "p", *, prompt: str = "What is 3 + 4?", answer: str | None = "7", verifier: str = "math", language: str = "en"):
    return Problem(
        id=name, prompt=prompt, answer=answer, verifier=verifier, domain="math", language=language,
        source="test", licence="CC0", split="train",
    )  # fmt: skip


def completion(text: str, *, seed: int = 0, finish_reason="stop") -> Completion:
    segment = Segment(token_ids=(1, 2, 3), logprobs=(-1.0, -1.0, -1.0))
    return Completion(segments=(segment,), text=text, finish_reason=finish_reason, seed=seed, policy_version=0)


def sample(name: str, *, thinking: str = "I add three and four.", summary: str = "It is 7.", of: Problem | None = None) -> Sample:
    return Sample(id=name, problem=of or problem(name.partition("#")[0]), thinking=thinking, summary=summary, lineage=LINEAGE)


def all_right(samples):
    return [(True, "equal")] * len(samples)


def nothing_found(_: Sample) -> None:
    return None


def chosen(sampled, *, grade=all_right, contaminated=nothing_found, **settings):
    return select(sampled, grade=grade, contaminated=contaminated, settings=RejectionSettings(**settings))


def ids(samples) -> list[str]:
    return [sample.id for sample in samples]


# A thousand good samples and sixty planted ones.

OPENINGS = {
    "en": ("Let me read this once more.", "Okay, first I write down what is given.", "I start with the numbers.", "What do they ask?"),
    "ko": ("문제를 다시 읽어 보자.", "먼저 주어진 것을 적어 본다.", "숫자부터 살펴보자.", "무엇을 묻는 문제일까?"),
}
STEPS = {
    "en": (
        "There are {a} red marbles and {b} blue ones, so together that makes {c}.",
        "I add {b} to {a}: that is {a} + {b} = {c}.",
        "Ten more than {a} would be too many, so I count on slowly and reach {c}.",
        "Adding the ones and then the tens of {a} and {b} gives $ {a} + {b} = {c} $.",
    ),
    "ko": (
        "빨간 구슬이 {a}개, 파란 구슬이 {b}개이므로 모두 {c}개이다.",
        "이제 {a}에 {b}를 더하면 {a} + {b} = {c} 가 된다.",
        "일의 자리와 십의 자리를 따로 더하면 {c}을 얻는다.",
        "차례로 세어 보면 결국 $ {a} + {b} = {c} $ 임을 알 수 있다.",
    ),
}
CHECKS = {
    "en": ("Wait, let me check: {c} - {b} = {a}. Good.", "Turned around, {c} - {a} = {b}, which fits.", "Nothing was counted twice."),
    "ko": ("잠깐, 확인해 보자. {c} - {b} = {a} 이다. 맞다.", "거꾸로 {c} - {a} = {b} 이니 옳다.", "두 번 센 것은 없다."),
}
SUMMARIES = {"en": "There are $\\boxed{{{c}}}$ marbles in all.", "ko": "구슬은 모두 $\\boxed{{{c}}}$ 개입니다."}
QUESTIONS = {"en": "There are {a} red and {b} blue marbles. How many in all?", "ko": "빨간 구슬 {a}개와 파란 구슬 {b}개는 모두 몇 개인가?"}
CODE = "\n\n```python\ntotal = a + b\n```\n\n"
LEAKED = "A farmer counts his marbles at noon."


def response(language: str, *, a: int, b: int, way: int) -> str:
    """Way ``k`` of 48 to say it: no two are alike."""
    parts = (OPENINGS[language][way % 4], STEPS[language][way // 4 % 4], CHECKS[language][way // 16])
    fill = {"a": a, "b": b, "c": a + b}
    return f"<think>\n{' '.join(parts).format(**fill)}\n</think>\n\n{SUMMARIES[language].format(**fill)}"


def spoilt(kind: str, text: str, total: int) -> str:
    head, tail = "<think>\n", "\n</think>"
    return {
        "mixed_language": text.replace(tail, " 然后我们再检查一遍这个结果对不对。" + tail),
        "long_paragraph": text.replace(tail, " " + " ".join(f"{k} + {total} = {k + total}." for k in range(130)) + tail),
        "code_in_thinking": text.replace(head, head + "As a program:" + CODE),
        "wrong": text.replace(f"boxed{{{total}}}", f"boxed{{{total + 1}}}"),
        "duplicate": text.replace(" ", "  ").upper().replace("THINK>", "think>").replace("\\BOXED", "\\boxed"),
    }[kind]


def thousand_and_sixty() -> tuple[list[Sample | Rejection], dict[str, str]]:
    """250 problems in two languages with 4 good outputs; 50 have a bad fifth one, and 10 further problems are leaked."""
    rng = random.Random(7)
    planted: dict[str, str] = {}
    sampled: list[Sample | Rejection] = []
    kinds = [kind for kind in ("mixed_language", "long_paragraph", "code_in_thinking", "wrong", "duplicate") for _ in range(10)]
    for number in range(260):
        language = ("en", "ko")[number % 2]
        a, b = rng.randint(11, 99), rng.randint(11, 99)
        leaked = number >= 250
        question = QUESTIONS[language].format(a=a, b=b) + (f" {LEAKED}" if leaked else "")
        asked = problem(f"marbles/{number}", prompt=question, answer=str(a + b), language=language)
        texts = [response(language, a=a, b=b, way=way) for way in rng.sample(range(48), 5)]
        if leaked:
            planted[f"{asked.id}#0"] = "contaminated"
            texts = texts[:1]
        elif number % 5 == 0:
            planted[f"{asked.id}#4"] = kind = kinds[number // 5]
            texts[4] = spoilt(kind, texts[0] if kind == "duplicate" else texts[4], a + b)
        else:
            texts = texts[:4]
        sampled += candidates(asked, [completion(text, seed=k) for k, text in enumerate(texts)], lineage=LINEAGE)
    return sampled, planted


def overlap(sample: Sample) -> str | None:
    return "the question is one of the evaluation's" if LEAKED in sample.problem.question else None


def test_sixty_planted_faults_among_a_thousand_good_samples_are_found_and_nothing_else():
    sampled, planted = thousand_and_sixty()
    assert len(sampled) == 1060 and len(planted) == 60 and set(Counter(planted.values()).values()) == {10}
    grade = grade_by_rules(make_grader({"accuracy": accuracy_reward()}, {"accuracy": 1.0}, required=["accuracy"]))
    selection = select(sampled, grade=grade, contaminated=overlap, settings=DEFAULT)
    assert {rejection.sample.id: rejection.rule for rejection in selection.rejected} == planted
    assert all(rejection.why for rejection in selection.rejected)
    assert len(selection.kept) == 1000 and not set(ids(selection.kept)) & set(planted)
    assert selection.funnel.render() == (
        "sampled 1060 -> well-formed 1060 -> correct 1050 -> readable 1020 -> unique 1010 -> clean 1000 -> kept 1000"
    )
    rng = random.Random(1)
    again = select(rng.sample(sampled, len(sampled)), grade=grade, contaminated=overlap, settings=DEFAULT)
    assert again == selection


def test_an_output_becomes_a_sample_that_can_be_traced():
    found = candidates(problem(), [completion("<think> 3 + 4 </think> 7", seed=5), completion("<think> 3", seed=6)], lineage=LINEAGE)
    good, bad = found
    assert good == Sample(
        id="p#0", problem=problem(), thinking="3 + 4", summary="7", measured={"tokens": 3.0},
        lineage=Lineage(source="dev2", checkpoint="abc", sampler={"temperature": 1.0}, seed=5),
    )  # fmt: skip
    assert (bad.rule, bad.why, bad.sample.id, bad.sample.thinking, bad.sample.summary, bad.sample.lineage.seed) == (
        "malformed", "the thinking is not closed", "p#1", None, "<think> 3", 6,
    )  # fmt: skip
    kept = chosen(found).kept[0]
    assert kept.lineage.steps == ("graded: equal", "kept by rejection sampling") and kept.measured == {"tokens": 3.0, "accuracy": 1.0}
    assert sample_from_row(sample_to_row(kept)) == kept


@pytest.mark.parametrize(
    ("text", "think_open", "finish_reason", "why"),
    [
        ("<think> a </think> b", False, "length", "cut off"),
        ("a", True, "stop", "not closed"),
        ("<think> </think> b", False, "stop", "thinking is empty"),
        ("<think> a </think>", False, "stop", "summary is empty"),
        ("b", False, "stop", "no thinking"),
    ],
)
def test_what_has_no_thinking_and_summary_is_malformed_and_kept_as_it_was(text, think_open, finish_reason, why):
    (found,) = candidates(problem(), [completion(text, finish_reason=finish_reason)], lineage=LINEAGE, think_open=think_open)
    assert isinstance(found, Rejection) and found.rule == "malformed" and why in found.why and found.sample.summary == text


def test_an_output_that_starts_inside_the_thinking_is_the_same_sample():
    inside = candidates(problem(), [completion("3 + 4 </think> 7")], lineage=LINEAGE, think_open=True)
    assert inside == candidates(problem(), [completion("<think>3 + 4 </think> 7")], lineage=LINEAGE)


def test_a_rejection_names_the_first_broken_rule_and_lists_all():
    bad = sample("p#0", thinking="```\nx\n```\n그래서 답은 모두 일곱 개입니다.")
    (rejection,) = chosen([bad]).rejected
    assert rejection.rule == "mixed_language"
    assert rejection.why.startswith("mixed_language: ") and "; code_in_thinking: a fenced block" in rejection.why


def test_the_language_is_the_questions_where_the_problem_names_none():
    asked = problem(prompt="책은 모두 몇 권인가?", language="")
    english, korean = "I add three and four here.", "셋에 넷을 더하면 된다."
    selection = chosen([sample("p#0", thinking=english, of=asked), sample("p#1", thinking=korean, summary="7", of=asked)])
    assert ids(selection.kept) == ["p#1"] and selection.rejected[0].rule == "mixed_language"


def test_duplicates_are_per_problem_and_the_first_sampled_stays():
    texts = {"p#10": "Same  thing here.", "p#2": "same thing\nhere.", "p#3": "another thing here.", "q#0": "same thing here."}
    selection = chosen([sample(name, thinking=text) for name, text in texts.items()])
    assert ids(selection.kept) == ["p#2", "p#3", "q#0"]
    assert [(r.sample.id, r.rule, r.why) for r in selection.rejected] == [
        ("p#10", "duplicate", "equal to p#2 but for white space and case")
    ]


def test_near_duplicates_only_where_asked_for():
    """aa bb cc dd ss1 against aa bb cc ee ss1: of the pairs ab bc cd ds, and ab bc ce es, two of six are common to both."""
    pair = [sample("p#0", thinking="aa bb cc dd", summary="ss1"), sample("p#1", thinking="aa bb cc ee", summary="ss1")]
    unknown = {"readability": {"language_share": 0}}
    assert len(chosen(pair, **unknown).kept) == 2
    assert len(chosen(pair, near_duplicate=0.34, near_duplicate_n=2, **unknown).kept) == 2
    selection = chosen(pair, near_duplicate=0.33, near_duplicate_n=2, **unknown)
    assert ids(selection.kept) == ["p#0"] and selection.rejected[0].why == "33% of its and p#0's 2-grams are common to both"


def test_at_most_so_many_are_kept_and_the_seed_decides_which():
    many = [sample(f"p#{k}", thinking=f"Way {k}: " + "I count on and on. " * (k % 3) + "So seven.") for k in range(8)]
    by_seed = {seed: ids(chosen(many, seed=seed).kept) for seed in range(20)}
    assert {len(kept) for kept in by_seed.values()} == {4} and len({tuple(kept) for kept in by_seed.values()}) > 10
    assert {name for kept in by_seed.values() for name in kept} == set(ids(many))
    assert by_seed[0] == ids(chosen(many, seed=0).kept)
    assert ids(chosen(many, order="shortest").kept) == ["p#0", "p#1", "p#3", "p#6"]  # the shortest are 0, 3, 6, then 1 before 4 and 7
    rejected = chosen(many, kept_per_prompt=7).rejected
    assert [(r.rule, r.why) for r in rejected] == [("over_limit", "7 other samples of this problem are kept")]


FATES = ("malformed", "wrong", "ungraded", "code_in_thinking", "contaminated", "good")


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(FATES), st.integers(0, 2)), max_size=40), st.randoms(use_true_random=False))
def test_the_funnel_adds_up_and_the_order_of_the_input_changes_nothing(outcomes, rng):
    fates: dict[str, str] = {}
    sampled: list[Sample | Rejection] = []
    for index, (number, fate, wording) in enumerate(outcomes):
        code = "\n```\ncode\n```" if fate == "code_in_thinking" else ""
        one = sample(f"p{number}#{index}", thinking=f"Wording {wording}.{code}")
        fates[one.id] = fate
        sampled.append(Rejection(sample=one, rule="malformed", why="cut off") if fate == "malformed" else one)

    def grade(samples):
        return [({"wrong": False, "ungraded": None}.get(fates[s.id], True), "because") for s in samples]

    def contaminated(one):
        return "overlap" if fates[one.id] == "contaminated" else None

    selection = chosen(sampled, grade=grade, contaminated=contaminated, kept_per_prompt=2)
    gone = {rejection.sample.id: rejection.rule for rejection in selection.rejected}
    assert sorted([*ids(selection.kept), *gone]) == sorted(fates)
    assert all(gone[name] in (fate, "duplicate") for name, fate in fates.items() if fate != "good")
    assert all(fates[name] == "good" for name in ids(selection.kept))
    assert max(Counter(s.problem.id for s in selection.kept).values(), default=0) <= 2
    assert selection.funnel.reached["kept"] == len(selection.kept) and selection.funnel.rejected == Counter(gone.values())
    rng.shuffle(sampled)
    assert chosen(sampled, grade=grade, contaminated=contaminated, kept_per_prompt=2) == selection


def test_a_funnel_that_does_not_add_up_is_refused():
    reached = dict.fromkeys(STATIONS, 8) | {"sampled": 10}
    assert Funnel(reached=reached, rejected={"malformed": 2}).to_dict() == {"reached": reached, "rejected": {"malformed": 2}}
    for rejected, why in [({"malformed": 1}, "10 samples less 1"), ({"wrong": 2}, "'well_formed'"), ({"malformed": 2, "x": 0}, "no rules")]:
        with pytest.raises(ValueError, match=why):
            Funnel(reached=reached, rejected=rejected)
    with pytest.raises(ValueError, match="has the stations"):
        Funnel(reached={"sampled": 1}, rejected={})


def test_mistakes_of_the_caller_are_refused():
    with pytest.raises(ValueError, match="1 ids occur more than once, the first is 'p#0'"):
        chosen([sample("p#0"), sample("p#0")])
    with pytest.raises(ValueError, match=r"only be rejected as 'malformed' .* found \['wrong'\]"):
        chosen([Rejection(sample=sample("p#0"), rule="wrong", why="")])
    with pytest.raises(ValueError, match="1 verdicts for 2 samples"):
        chosen([sample("p#0"), sample("p#1")], grade=lambda _: [(True, "")])


# Who is right.


def graded(answer: str | None, *outputs, verifier="judge", summaries=("It is 7.",)):
    """Verdicts of a judge that says ``outputs`` in turn, and the prompts it saw."""
    said, prompts = iter(outputs), []

    def complete(prompt):
        prompts.append(prompt)
        output = next(said)
        if isinstance(output, Exception):
            raise output
        return output

    asked = problem(answer=answer, verifier=verifier)
    samples = [sample(f"p#{k}", summary=summary, thinking="secret", of=asked) for k, summary in enumerate(summaries)]
    return grade_by_judge(partial(judge, complete=complete), workers=1)(samples), prompts


def test_a_judge_decides_by_question_reference_and_summary():
    verdicts, prompts = graded("seven", RIGHT, WRONG, summaries=("It is 7.", "It is 8.", "It is 7."))
    assert verdicts == [(True, "the judge says correct"), (False, "the judge says incorrect"), (True, "the judge says correct")]
    assert len(prompts) == 2 and "What is 3 + 4?" in prompts[0] and "seven" in prompts[0] and "secret" not in prompts[0]


def test_junk_a_failed_call_and_a_missing_reference_are_ungraded_and_never_wrong():
    junk, prompts = graded("seven", "hm", "hm", "correct")
    assert junk[0][0] is None and junk[0][1].startswith("no usable verdict in 3 attempts") and len(prompts) == 3
    failed, _ = graded("seven", TimeoutError("no answer"))
    assert failed == [(None, "the judge could not be asked: TimeoutError: no answer")]
    assert graded(None)[0] == graded(" ")[0] == [(None, "there is no reference answer")]
    endless, prompts = graded("seven", summaries=("7" * 20_001,))
    assert endless[0][0] is False and prompts == []
    selection = chosen([sample("p#0")], grade=lambda _: junk)
    assert [(r.rule, r.why) for r in selection.rejected] == [("ungraded", junk[0][1])]


def test_a_judge_that_stays_down_stops_the_stage():
    with pytest.raises(RewardError, match="32 times in a row the judge could not be asked: ConnectionError: refused"):
        graded("seven", *[ConnectionError("refused")] * 40, summaries=[f"It is {k}." for k in range(40)])
    mended = [*[ConnectionError("refused")] * 31, RIGHT, *[ConnectionError("refused")] * 31]
    assert len(graded("seven", *mended, summaries=[f"It is {k}." for k in range(63)])[0]) == 63


def test_rules_come_first_and_the_judge_gets_what_no_rule_can_check():
    """Math by rule; a verifier without a rule, and a reference the rule cannot read, by the judge."""
    asked: list[str] = []

    def by_judge(samples):
        asked.extend(ids(samples))
        return [(s.problem.answer is not None, "the judge says so") for s in samples]

    rules = grade_by_rules(make_grader({"accuracy": accuracy_reward()}, {"accuracy": 1.0}, required=["accuracy"]))
    samples = [
        sample("a#0", summary="$\\boxed{7}$"),
        sample("b#0", summary="$\\boxed{8}$"),
        sample("c#0", of=problem("c", verifier="judge", answer="seven")),
        sample("d#0", of=problem("d", answer=None)),
    ]
    verdicts = rules_then_judge(rules, by_judge, ruled=VERIFIERS)(samples)
    assert [right for right, _ in verdicts] == [True, False, True, False] and asked == ["c#0", "d#0"]
    alone = rules_then_judge(rules, None, ruled=VERIFIERS)(samples)
    assert [right for right, _ in alone] == [True, False, None, None]
    assert alone[2][1] == "no rule for the verifier 'judge', and there is no judge"
    assert rules_then_judge(rules, by_judge, ruled=VERIFIERS)([]) == []


def test_a_grader_sees_the_response_as_it_was_sampled():
    seen: list[str] = []

    def grader(_, completions):
        seen.extend(c.text for c in completions)
        return [Reward(value=0.5)]

    for think_open in (False, True):
        assert grade_by_rules(grader, think_open=think_open)([sample("p#0", thinking="a", summary="b")]) == [(False, "the reward is 0.5")]
    assert seen == ["<think>\na\n</think>\n\nb", "\na\n</think>\n\nb"]


# The mix.


def test_the_mix_has_the_share_that_was_asked_for():
    reasoning = [sample(f"p#{k}") for k in range(900)]
    general = [sample(f"g#{k}") for k in range(400)]
    mixed = mix(reasoning, general, seed=0)
    assert len(mixed) == 1200 and set(ids(reasoning)) < set(ids(mixed)) and sum(s.id.startswith("g") for s in mixed) == 300
    assert ids(mixed) == ids(mix(reasoning[::-1], general[::-1], seed=0)) != ids(mix(reasoning, general, seed=1))
    halves = [sum(s.id.startswith("g") for s in part) for part in (mixed[:600], mixed[600:])]
    assert min(halves) > 100, "general samples stand among the others"
    assert len(mix(reasoning[:10], general, shares=(4, 1), seed=0)) == 13  # 2.5 of them, rounded up
    assert len(mix(reasoning, general, shares=(1, 0), seed=0)) == 900


def test_too_few_general_samples_are_an_error_that_names_the_number_missing():
    reasoning, general = [sample(f"p#{k}") for k in range(9)], [sample("g#0")]
    with pytest.raises(ValueError, match="9 reasoning samples at 600:200 need 3 general ones, there are 1: 2 missing"):
        mix(reasoning, general, seed=0)
    assert len(mix(reasoning, general, seed=0, allow_fewer=True)) == 10
    with pytest.raises(ValueError, match="'g#0'; ids must be unique"):
        mix(reasoning, general * 2, seed=0, allow_fewer=True)
    with pytest.raises(ValueError, match="reasoning at least 1"):
        mix(reasoning, general, shares=(0, 1), seed=0)


def test_the_settings_are_set_like_any_others():
    flags = ["--kept-per-prompt=2", "--readability.paragraph-words=100", "--mix=[3, 1]", "--near-duplicate=0.8"]
    settings = load_settings(RejectionSettings, flags=flags).settings
    assert (settings.kept_per_prompt, settings.readability.paragraph_words, settings.mix, settings.near_duplicate) == (2, 100, (3, 1), 0.8)
