"""Settings: who wins, where each value came from, and what a user reads when something is wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from zero2r1.config import ConfigError, Resolved, Settings, diff, dump, load_settings, option_paths, read_flags, read_yaml
from zero2r1.grpo.config import ALGORITHMS
from zero2r1.pipeline.config import RlSettings, ZeroSettings


class Sampling(Settings):
    group_size: int = Field(8, ge=2)
    temperature: float = 1.0
    cap_from_step: dict[int, int] = {}


class Optimizer(Settings):
    learning_rate: float = Field(1e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "constant"


class Example(Settings):
    steps: int = 10
    name: str = "x"
    sampling: Sampling = Sampling()
    optimizer: Optimizer | None = Optimizer()
    weights: dict[str, float] = {"accuracy": 1.0}

    @model_validator(mode="after")
    def _not_thirteen(self) -> Example:
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck")
        return self


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def test_later_sources_win_and_every_value_remembers_its_place(tmp_path: Path) -> None:
    first = write(
        tmp_path,
        "a.yaml",
        """\
        # a comment
        steps: 20
        sampling:
          group_size: 4
          temperature: 0.5
        """,
    )
    second = write(tmp_path, "b.yaml", "sampling: {temperature: 0.7}\n")
    resolved = load_settings(
        Example,
        files=[first, second],
        environ={"ZERO2R1_SAMPLING__GROUP_SIZE": "6", "ZERO2R1_OPTIMIZER__LEARNING_RATE": "2e-4", "PATH": "/bin"},
        flags=["--optimizer.learning-rate", "3e-4"],
        presets=[("--algorithm modern", {"steps": 15, "optimizer": {"schedule": "cosine"}})],
    )
    settings = resolved.settings
    assert (settings.steps, settings.sampling.group_size, settings.sampling.temperature) == (20, 6, 0.7)
    assert settings.optimizer is not None
    assert (settings.optimizer.learning_rate, settings.optimizer.schedule) == (3e-4, "cosine")
    assert dict(resolved.sources) == {
        ("steps",): f"{first}:2",
        ("sampling", "group_size"): "$ZERO2R1_SAMPLING__GROUP_SIZE",
        ("sampling", "temperature"): f"{second}:1",
        ("optimizer", "learning_rate"): "--optimizer.learning-rate",
        ("optimizer", "schedule"): "--algorithm modern",
    }


def test_a_bundle_changes_what_files_and_environment_say_and_flags_change_it(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", "{steps: 20, sampling: {group_size: 4, temperature: 0.5}}\n")
    resolved = load_settings(
        Example,
        files=[file],
        environ={"ZERO2R1_SAMPLING__GROUP_SIZE": "6"},
        bundles=[("--algorithm x", {"steps": 15, "sampling": {"group_size": 8}})],
        flags=["--steps=3"],
    )
    settings = resolved.settings
    assert (settings.steps, settings.sampling.group_size, settings.sampling.temperature) == (3, 8, 0.5)
    assert resolved.sources["sampling", "group_size"] == "--algorithm x"


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings(Example) == Resolved(settings=Example(), sources={})


@pytest.mark.parametrize("spelling", [["--sampling.group-size=4"], ["--sampling.group_size", "4"], ["--sampling={group_size: 4}"]])
def test_flags_may_be_spelt_with_dash_or_underscore_equals_or_blank(spelling: list[str]) -> None:
    assert load_settings(Example, flags=spelling).settings.sampling.group_size == 4


@pytest.mark.parametrize(("text", "value"), [("3e-4", 3e-4), ("1E3", 1000.0), ("-2.5e+1", -25.0), ("0.5", 0.5), ("7", 7)])
def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path, text: str, value: float) -> None:
    # YAML 1.1, as PyYAML reads it, takes "3e-4" for a string
    path = write(tmp_path, "a.yaml", f"sampling:\n  temperature: {text}\n")
    assert yaml.safe_load("3e-4") == "3e-4"
    assert load_settings(Example, files=[path]).settings.sampling.temperature == value
    assert load_settings(Example, flags=[f"--sampling.temperature={text}"]).settings.sampling.temperature == value


def test_a_negative_number_may_follow_its_flag_after_a_blank() -> None:
    assert load_settings(Example, flags=["--steps", "-3"]).settings.steps == -3


def test_an_unknown_key_names_file_line_and_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path, "zero.yaml", "steps: 3\n\noptimizer:\n  schedule: cosine\n  learning_rte: 1.0\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, files=[path])
    assert str(caught.value) == (
        f"{path}:5: optimizer.learning_rte is not an option. Did you mean optimizer.learning_rate? Nothing was started."
    )


@pytest.mark.parametrize(
    ("flag", "meant"),
    [
        ("--sampling.goup_size=4", "sampling.group_size"),
        ("--group_size=4", "sampling.group_size"),  # right name, group forgotten
        ("--optimiser.learning_rate=1", "optimizer"),
    ],
)
def test_an_unknown_flag_is_refused_with_a_suggestion(flag: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{flag.partition('=')[0]}: .* is not an option\. Did you mean {meant}\?"):
        load_settings(Example, flags=[flag])


def test_an_unknown_name_like_no_other_lists_the_options_of_its_group() -> None:
    with pytest.raises(ConfigError, match=r"Options here: cap_from_step, group_size, temperature\."):
        load_settings(Example, flags=["--sampling.zzzz=4"])


def test_an_unknown_variable_of_ours_is_refused_but_not_those_that_are_no_settings() -> None:
    with pytest.raises(ConfigError, match=r"^\$ZERO2R1_STEP: step is not an option\. Did you mean steps\?"):
        load_settings(Example, environ={"ZERO2R1_STEP": "3"})
    assert load_settings(Example, environ={"ZERO2R1_CACHE": "/tmp/x"}).sources == {}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("steps: many\n", 1, "valid integer"),
        ("steps: 2.5\n", 1, "valid integer"),
        ("name: x\nsampling:\n  group_size: 1\n", 3, "greater than or equal to 2"),
        ("optimizer:\n  schedule: linear\n", 2, "'constant' or 'cosine'"),
        ("sampling: 5\n", 1, "Sampling"),
        ("steps: 13\n", None, "13 steps bring bad luck"),
    ],
)
def test_a_wrong_value_names_its_line_what_was_expected_and_what_was_given(
    tmp_path: Path, text: str, line: int | None, message: str
) -> None:
    path = write(tmp_path, "a.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, files=[path])
    said = str(caught.value)
    assert message in said and said.endswith("Nothing was started.")
    if line is not None:
        given = text.splitlines()[line - 1].rpartition(": ")[2]
        assert said.startswith(f"{path}:{line}: ") and given in said


def test_all_wrong_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(Example, flags=["--steps=a", "--sampling.group_size=b"])
    assert "--steps: steps: " in str(caught.value) and "--sampling.group_size: sampling.group_size: " in str(caught.value)


def test_a_key_that_stands_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "sampling:\n  group_size: 4\n  temperature: 1\n  group_size: 8\n")
    with pytest.raises(ConfigError, match=rf"^{path}:4: group_size stands twice; the first is at {path}:2"):
        read_yaml(path)


def test_tabs_are_explained(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "sampling:\n\tgroup_size: 4\n")
    with pytest.raises(ConfigError, match="line 2.*use spaces"):
        _unfold(path)


def _unfold(path: Path) -> None:
    """PyYAML spreads its message over lines; matching is easier on one."""
    try:
        read_yaml(path)
    except ConfigError as error:
        raise ConfigError(" ".join(str(error).split())) from error


@pytest.mark.parametrize("text", ["- a\n- b\n", "just text\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"a\.yaml:1: expected keys and values"):
        read_yaml(write(tmp_path, "a.yaml", text))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml: No such file"):
        load_settings(Example, files=[tmp_path / "nowhere.yaml"])


def test_an_empty_file_sets_nothing(tmp_path: Path) -> None:
    assert load_settings(Example, files=[write(tmp_path, "a.yaml", "# nothing yet\n")]).sources == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["steps=3"], "neither an option nor a setting"),
        (["--"], "neither an option nor a setting"),
        (["--steps"], "--steps needs a value: --steps=VALUE"),
        (["--steps", "--name=x"], "--steps needs a value"),
        (["--sampling=5", "--sampling.group_size=4"], "sampling was given a plain value"),
    ],
)
def test_a_malformed_flag_says_how_it_should_look(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_flags(arguments)


def test_keys_of_a_free_mapping_are_not_checked_for_spelling(tmp_path: Path) -> None:
    path = write(tmp_path, "a.yaml", "weights: {mine: 2.0}\nsampling:\n  cap_from_step: {100: 64, 200: 128}\n")
    settings = load_settings(Example, files=[path]).settings
    assert settings.weights == {"mine": 2.0} and settings.sampling.cap_from_step == {100: 64, 200: 128}


def test_a_group_may_be_switched_off_with_null() -> None:
    assert load_settings(Example, flags=["--optimizer=null"]).settings.optimizer is None


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Example().steps = 3  # type: ignore[misc]


def test_the_dump_holds_every_key_with_its_source() -> None:
    resolved = load_settings(Example, flags=["--sampling.group_size=4"], environ={"ZERO2R1_STEPS": "5"})
    assert dump(resolved) == (
        "steps: 5  # $ZERO2R1_STEPS\n"
        "name: x  # default\n"
        "sampling:\n"
        "  group_size: 4  # --sampling.group_size\n"
        "  temperature: 1.0  # default\n"
        "  cap_from_step: {}  # default\n"
        "optimizer:\n"
        "  learning_rate: 0.001  # default\n"
        "  schedule: constant  # default\n"
        "weights:\n"
        "  accuracy: 1.0  # default\n"
    )


@given(
    rate=st.floats(min_value=1e-12, max_value=1e12),
    steps=st.integers(-(10**9), 10**9).filter(lambda n: n != 13),
    caps=st.dictionaries(st.integers(0, 10_000), st.integers(1, 100)),
    name=st.text("ab 7.가:#'\"{}[]-&*!|>%@`,?", max_size=12),
)
def test_a_dump_reads_back_as_the_same_settings(
    tmp_path_factory: pytest.TempPathFactory, rate: float, steps: int, caps: dict[int, int], name: str
) -> None:
    settings = Example(steps=steps, name=name, sampling=Sampling(cap_from_step=caps), optimizer=Optimizer(learning_rate=rate))
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump(Resolved(settings=settings, sources={})), encoding="utf-8")
    assert load_settings(Example, files=[path]).settings == settings


@pytest.mark.parametrize("model", [ZeroSettings, RlSettings])
def test_the_shipped_settings_survive_their_own_dump(tmp_path: Path, model: type[Settings]) -> None:
    for name, values in ALGORITHMS.items():
        resolved = load_settings(model, presets=[(f"--algorithm {name}", values)])
        path = write(tmp_path, f"{name}.yaml", dump(resolved))
        assert load_settings(model, files=[path]).settings == resolved.settings


def test_a_text_of_several_lines_survives_the_dump(tmp_path: Path) -> None:
    settings = ZeroSettings.model_validate({"data": {"template": "Question:\n\n  {question}\nAnswer: "}})
    path = write(tmp_path, "a.yaml", "")
    path.write_text(dump(Resolved(settings=settings, sources={})), encoding="utf-8")
    assert load_settings(ZeroSettings, files=[path]).settings == settings


def test_option_paths_reach_into_groups() -> None:
    assert [".".join(path) for path in option_paths(Example)] == [
        "steps", "name", "sampling.group_size", "sampling.temperature", "sampling.cap_from_step",
        "optimizer.learning_rate", "optimizer.schedule", "weights",
    ]  # fmt: skip


def test_diff_names_what_changed_and_what_was_added() -> None:
    old = {"seed": 42, "rl": {"group_size": 8, "beta": 0.1}}
    new = {"seed": 7, "rl": {"group_size": 8, "beta": 0.1, "kl": "k3"}}
    assert diff(old, new) == ["seed: 42 -> 7", "rl.kl: None -> k3"]
    assert diff(old, old) == []


def test_a_mapping_is_one_value_and_a_flag_for_an_entry_changes_that_entry(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("reward:\n  weights: {accuracy: 2.0}\n")

    def weights(*flags: str, files: tuple[Path, ...] = ()) -> dict[str, float]:
        return load_settings(ZeroSettings, files=files, flags=flags).settings.reward.weights

    assert weights() == {"accuracy": 1.0, "format": 1.0}
    assert weights("--reward.weights.accuracy=2") == {"accuracy": 2.0, "format": 1.0}
    assert weights(files=(file,)) == {"accuracy": 2.0}
    assert weights("--reward.weights.format=0.5", files=(file,)) == {"accuracy": 2.0, "format": 0.5}
    assert weights("--reward.weights={format: 1.0}", files=(file,)) == {"format": 1.0}


def test_variables_that_are_no_settings_are_left_alone() -> None:
    environ = {"ZERO2R1_TRACEBACK": "1", "ZERO2R1_CACHE": "/tmp", "ZERO2R1_STEPS": "5"}
    assert load_settings(ZeroSettings, environ=environ).settings.steps == 5


class Speed(Settings):
    rate: float = 1.0
    schedule: str = "constant"
    limits: dict[str, float] = {"top": 1.0}


class Inner(Settings):
    speed: Speed = Speed(rate=3.0, schedule="cosine", limits={"top": 2.0, "low": 0.5})
    seed: int = 0


class Outer(Settings):
    inner: Inner = Inner(seed=7)
    speed: Speed = Speed()


def test_a_group_set_in_part_keeps_its_own_defaults():
    """Once, `--optimizer.learning_rate` of SFT turned its cosine into the constant schedule of optimizers elsewhere."""
    found = load_settings(Outer, flags=["--inner.speed.rate=5"]).settings
    assert (found.inner.speed.rate, found.inner.speed.schedule, found.inner.seed) == (5.0, "cosine", 7)
    assert found.inner.speed.limits == {"top": 2.0, "low": 0.5}
    assert found.speed == Speed()
    assert Outer.model_validate({"inner": {"speed": {"limits": {"top": 4.0}}}}).inner.speed.limits == {"top": 4.0}  # one value, replaced


def test_groups_filled_from_defaults_do_not_count_as_set():
    assert "seed" not in load_settings(Outer, flags=["--inner.speed.rate=5"]).settings.inner.speed.model_fields_set
    assert Outer.model_validate({"speed": {"rate": 2}}).inner.seed == 7
