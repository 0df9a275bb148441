"""Settings: presets, YAML files, environment and ``--a.b=c`` flags become one dict; pydantic checks it; each value keeps its source.

Later sources win: defaults < presets < files in the order given < ``ZERO2R1_A__B`` variables < flags. A key that no model
knows is an error that names the place and the nearest known key; nothing is ever ignored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

ENVIRONMENT_PREFIX = "ZERO2R1_"
OWN_VARIABLES = frozenset({"ZERO2R1_CACHE", "ZERO2R1_SHARED_DATA", "ZERO2R1_TRACEBACK"})
"""Variables with this prefix that are no settings."""


class Settings(BaseModel):
    """Base of every group of settings: frozen, defaults checked, and an unknown key is an error.

    A group that has defaults of its own inside another one keeps them where only a part of it is set: ``optimizer: {learning_rate:
    1e-5}`` of SFT stays on SFT's cosine, and does not fall back to what an optimizer has elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _keep_defaults_of_groups(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return {name: _filled(defaults.get(name), value) for name, value in given.items()}


def _filled(default: Any, given: Any) -> Any:
    """A group that was given in part, with what its default sets beyond the defaults of its class."""
    if not isinstance(default, Settings) or not isinstance(given, Mapping):
        return given
    own = {name: getattr(default, name) for name in default.model_fields_set}
    return {**own, **{name: _filled(own.get(name), value) for name, value in given.items()}}


class ConfigError(ValueError):
    """Something the user asked for cannot be; the message says what, where and what to write instead."""


S = TypeVar("S", bound=Settings)
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved(Generic[S]):
    """Checked settings, and for every key that was set where that was."""

    settings: S
    sources: Mapping[Key, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Settings from one place: nested values, and the place of each key (``zero.yaml:14``, ``--a.b``)."""

    values: Mapping[str, Any]
    places: Mapping[Key, str]


def load_settings(
    model: type[S],
    *,
    files: Sequence[Path] = (),
    flags: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    presets: Sequence[tuple[str, Mapping[str, Any]]] = (),
    bundles: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> Resolved[S]:
    """Merge all sources and check the result.

    Args:
        flags: ``--a.b=c`` or ``--a.b c``; dashes and underscores in names are the same.
        presets: named starting points that files change, e.g. ``("--preset r1-distill-qwen-7b", {...})``.
        bundles: named settings that change what files say, e.g. ``("--algorithm dapo", {...})``; single flags still change them.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, a file that is not readable YAML.
    """
    layers = [_named_layer(*preset) for preset in presets]
    layers += [read_yaml(path) for path in files]
    layers += [_environment(environ or {})]
    layers += [_named_layer(*bundle) for bundle in bundles]
    layers += [read_flags(flags)]
    merged: dict[str, Any] = {}
    sources: dict[Key, str] = {}
    for layer in layers:
        replaced: set[Key] = set()
        for key in _leaves(layer.values):
            place = layer.places.get(key, "?")
            _check_known(model, key, place)
            root = _free_mapping(model, key)
            if root is not None and root not in replaced:
                # A mapping such as reward.weights is one value and replaces an earlier one; a flag for one of its entries changes that.
                replaced.add(root)
                entry_only = _path_of(place) == ".".join(key)
                _put(merged, root, _current(model, merged, root) if entry_only else {})
                sources = {known: source for known, source in sources.items() if entry_only or known[: len(root)] != root}
            _put(merged, key, _get(layer.values, key))
            sources[key] = place
    try:
        return Resolved(settings=model.model_validate(merged), sources=sources)
    except ValidationError as error:
        raise ConfigError(_explain(error, sources)) from error


def read_yaml(path: Path) -> Layer:
    """A YAML file with the line of every key; duplicate keys are refused.

    Raises:
        ConfigError: unreadable, not a mapping, or a key stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        hint = " YAML does not allow tabs for indentation; use spaces." if "\t" in text else ""
        raise ConfigError(f"{path} is not valid YAML: {error}.{hint}") from error
    if node is None:
        return Layer(values={}, places={})
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: expected keys and values, found something else")
    places: dict[Key, str] = {}
    return Layer(values=_walk(node, (), path, places), places=places)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes 3e-4 for text; numbers in that notation are numbers here."""


_Loader.yaml_implicit_resolvers = {first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789"))


def _walk(node: yaml.MappingNode, prefix: Key, path: Path, places: dict[Key, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        name = str(key_node.value)
        place = f"{path}:{key_node.start_mark.line + 1}"
        if name in values:
            raise ConfigError(f"{place}: {name} stands twice; the first is at {places[(*prefix, name)]}. Keep one of them")
        places[(*prefix, name)] = place
        if isinstance(value_node, yaml.MappingNode):
            values[name] = _walk(value_node, (*prefix, name), path, places)
        else:
            loader = _Loader("")
            values[name] = loader.construct_object(value_node, deep=True)
    return values


def read_flags(arguments: Sequence[str]) -> Layer:
    """``--a.b=c`` and ``--a.b c`` as nested values, each value read as YAML.

    Raises:
        ConfigError: an argument that is no flag, or a flag without a value.
    """
    values: dict[str, Any] = {}
    places: dict[Key, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or len(argument) < 3:
            raise ConfigError(f"{argument!r} is neither an option nor a setting; settings look like --optimizer.learning_rate=3e-6")
        name, given, value = argument[2:].partition("=")
        if not given:
            if not rest or (rest[0].startswith("--") and len(rest[0]) > 2):
                raise ConfigError(f"--{name} needs a value: --{name}=VALUE")
            value = rest.pop(0)
        key = tuple(name.replace("-", "_").split("."))
        _put(values, key, _parse(value))
        places[key] = f"--{name}"
    for key in _leaves(values):
        places.setdefault(key, next(place for start, place in places.items() if key[: len(start)] == start))
    return Layer(values=values, places=places)


def _environment(environ: Mapping[str, str]) -> Layer:
    values: dict[str, Any] = {}
    places: dict[Key, str] = {}
    for variable, value in environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in OWN_VARIABLES:
            key = tuple(variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
            _put(values, key, _parse(value))
            places[key] = f"${variable}"
    return Layer(values=values, places=places)


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text


def _named_layer(name: str, values: Mapping[str, Any]) -> Layer:
    return Layer(values=values, places=dict.fromkeys(_leaves(values), name))


def _leaves(values: Mapping[str, Any], prefix: Key = ()) -> Iterator[Key]:
    for name, value in values.items():
        key = (*prefix, str(name))
        if isinstance(value, Mapping) and value and all(isinstance(k, str) and not k.isdigit() for k in value):
            yield from _leaves(value, key)
        else:
            yield key


def _get(values: Mapping[str, Any], key: Key) -> Any:
    for name in key:
        values = values[name]
    return values


def _put(values: dict[str, Any], key: Key, value: Any) -> None:
    for name in key[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{'.'.join(key)} cannot be set: {name} was given a plain value as well")
    values[key[-1]] = value


def _group(annotation: Any) -> type[BaseModel] | None:
    """The settings model inside an annotation such as ``RolloutSettings`` or ``RolloutSettings | None``."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _check_known(model: type[BaseModel], key: Key, place: str) -> None:
    group: type[BaseModel] | None = model
    for depth, name in enumerate(key):
        if group is None:
            return  # inside a free mapping
        if name not in group.model_fields:
            path = ".".join(key[: depth + 1])
            raise ConfigError(f"{place}: {path} is not an option.{_suggestion(model, group, key, depth)} Nothing was started.")
        group = _group(group.model_fields[name].annotation)


def _free_mapping(model: type[BaseModel], key: Key) -> Key | None:
    """The part of a key that names a free mapping, for a key inside one."""
    group: type[BaseModel] | None = model
    for depth, name in enumerate(key[:-1]):
        assert group is not None
        group = _group(group.model_fields[name].annotation)
        if group is None:
            return key[: depth + 1]
    return None


def _current(model: type[BaseModel], merged: Mapping[str, Any], key: Key) -> dict[str, Any]:
    """A mapping as it stands before the layer under way: set by an earlier one, or the default."""
    try:
        return dict(_get(merged, key))
    except KeyError:
        value: Any = model()
        for name in key:
            value = getattr(value, name)
        return dict(value)


def _path_of(place: str) -> str:
    """The path that a flag or variable names."""
    return place.removeprefix("$" + ENVIRONMENT_PREFIX).lstrip("-").replace("-", "_").replace("__", ".").lower()


def _suggestion(model: type[BaseModel], group: type[BaseModel], key: Key, depth: int) -> str:
    prefix, name = key[:depth], key[depth]
    near = difflib.get_close_matches(name, group.model_fields, n=1, cutoff=0.6)
    if near:
        return f" Did you mean {'.'.join((*prefix, near[0]))}?"
    everywhere = {path[-1]: ".".join(path) for path in option_paths(model)}
    elsewhere = difflib.get_close_matches(name, everywhere, n=1, cutoff=0.75)
    if elsewhere:
        return f" Did you mean {everywhere[elsewhere[0]]}?"
    return f" Options here: {', '.join(sorted(group.model_fields))}."


def option_paths(model: type[BaseModel], prefix: Key = ()) -> Iterator[Key]:
    """Every option a settings model knows, as a path."""
    for name, field in model.model_fields.items():
        group = _group(field.annotation)
        if group is None:
            yield (*prefix, name)
        else:
            yield from option_paths(group, (*prefix, name))


def _explain(error: ValidationError, sources: Mapping[Key, str]) -> str:
    lines = []
    for item in error.errors():
        key = tuple(str(part) for part in item["loc"])
        place = next((sources[key[:n]] for n in range(len(key), 0, -1) if key[:n] in sources), None)
        where = f"{place}: " if place else ""
        what = f"{'.'.join(key)}: " if key else ""
        given = "" if isinstance(item.get("input"), (dict, BaseModel)) else f" (given: {item.get('input')!r})"
        lines.append(f"{where}{what}{item['msg'].removeprefix('Value error, ')}{given}")
    return "\n".join(lines) + "\nNothing was started."


def dump(resolved: Resolved[Any]) -> str:
    """The complete settings as YAML; every value carries its source as a comment."""
    lines: list[str] = []
    _dump(resolved.settings.model_dump(mode="json"), resolved.sources, (), lines)
    return "\n".join(lines) + "\n"


def _dump(values: Mapping[str, Any], sources: Mapping[Key, str], prefix: Key, lines: list[str]) -> None:
    indent = "  " * len(prefix)
    for name, value in values.items():
        key = (*prefix, name)
        if isinstance(value, dict) and value and key not in sources and not any(str(k).isdigit() for k in value):
            lines.append(f"{indent}{name}:")
            _dump(value, sources, key, lines)
        else:
            text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).strip().removesuffix("\n...")
            lines.append(f"{indent}{name}: {text}  # {sources.get(key, 'default')}")


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``["grpo.beta: 0.001 -> 0.0", ...]`` for two dumped settings."""
    keys = dict.fromkeys([*_leaves(old), *_leaves(new)])
    found = []
    for key in keys:
        values = []
        for side in (old, new):
            try:
                values.append(_get(side, key))
            except (KeyError, TypeError):
                values.append(None)
        if values[0] != values[1]:
            found.append(f"{'.'.join(key)}: {values[0]} -> {values[1]}")
    return found
