"""Policy files: one YAML mapping, tagged by `policy:`, strict, with every default in a struct.

    policy: pair_cost
    scales: {prefill: 1.5}

A file that is not understood whole is refused with the path of the key that is at fault.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import yaml

from .cache_aware import CacheAware, CacheAwareConfig
from .dynamo_cost import DynamoCost, DynamoCostConfig
from .least_loaded import LeastLoaded, LeastLoadedConfig
from .least_tokens import LeastTokens, LeastTokensConfig
from .lmetric import LMetric, LMetricConfig
from .memory import RoutingMemory
from .memory_config import MemorySettings
from .pair_cost import PairCost
from .pair_cost_config import PairCostConfig
from .policy import Policy
from .policy_config import PolicyConfig
from .power_of_two import PowerOfTwo, PowerOfTwoConfig
from .random_choice import RandomChoice, RandomConfig
from .round_robin import RoundRobin, RoundRobinConfig
from .scorers import Scorers, ScorersConfig

Config = TypeVar("Config", bound=PolicyConfig)


@dataclass(frozen=True, slots=True)
class Entry(Generic[Config]):
    """One policy: its settings, how it is built, and what it asks of the memory."""

    config: type[Config]
    build: Callable[[Config, RoutingMemory], Policy]
    memory: Callable[[Config], MemorySettings] | None = None
    """None: it reads none."""


def _indexed(
    config: CacheAwareConfig | DynamoCostConfig | LMetricConfig | PairCostConfig | ScorersConfig,
) -> MemorySettings:
    return MemorySettings(index=config.index)


_ENTRIES: tuple[Entry[Any], ...] = (
    Entry(RoundRobinConfig, lambda _, __: RoundRobin()),
    Entry(RandomConfig, lambda config, _: RandomChoice(config)),
    Entry(LeastLoadedConfig, lambda config, _: LeastLoaded(config)),
    Entry(LeastTokensConfig, lambda _, __: LeastTokens()),
    Entry(PowerOfTwoConfig, lambda config, _: PowerOfTwo(config)),
    Entry(CacheAwareConfig, CacheAware, _indexed),
    Entry(ScorersConfig, Scorers, _indexed),
    Entry(DynamoCostConfig, DynamoCost, _indexed),
    Entry(LMetricConfig, LMetric, _indexed),
    Entry(PairCostConfig, PairCost, PairCostConfig.memory_settings),
)
"""Every policy. A new one is a line here."""
_BY_CONFIG: dict[type[PolicyConfig], Entry[Any]] = {entry.config: entry for entry in _ENTRIES}
DEFAULTS: dict[str, PolicyConfig] = {
    str(entry.config.__struct_config__.tag): entry.config() for entry in _ENTRIES
}
"""Every policy by name, with the settings that an empty file of it has."""


_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")


class PolicyFileError(ValueError):
    """A policy that cannot be used; the message names the file and the path of the key."""


def load_policy_file(path: Path) -> PolicyConfig:
    """Read a policy file. Raises `PolicyFileError`."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyFileError(f"{path}: {error}") from error
    return parse_policy(text, str(path))


def parse_policy(text: str, source: str) -> PolicyConfig:
    """Return the settings in a policy file's text; `source` names it in errors. Raises `PolicyFileError`."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyFileError(f"{source}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, Mapping) or "policy" not in tree:
        raise PolicyFileError(f"{source}: policy: missing; one of {', '.join(DEFAULTS)}")
    if tree["policy"] not in list(DEFAULTS):
        raise PolicyFileError(f"{source}: policy: {tree['policy']!r} is none of {', '.join(DEFAULTS)}")
    try:
        return msgspec.convert(tree, type(DEFAULTS[tree["policy"]]))
    except msgspec.ValidationError as error:
        raise PolicyFileError(f"{source}: {_path_first(str(error))}") from error


def dump_policy(config: PolicyConfig) -> str:
    """Return a policy file's text with every setting written out."""
    return yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False)


def learns(config: PolicyConfig) -> bool:
    """Whether the policy reads a memory, which then is to be fed."""
    return _BY_CONFIG[type(config)].memory is not None


def memory_for(config: PolicyConfig, *, now: float) -> RoutingMemory:
    """Return a fresh memory with the settings that `config` has for it, or the defaults."""
    settings = _memory_settings(config)
    return RoutingMemory(
        settings.index, settings.rates, now=now, kv_bytes_per_token=settings.kv_bytes_per_token
    )


def may_keep_memory(old: PolicyConfig, new: PolicyConfig) -> bool:
    """Whether what was learned under `old` can be kept under `new`: the index and the priors are the same."""
    return _memory_settings(old) == _memory_settings(new)


def build_policy(config: PolicyConfig, memory: RoutingMemory) -> Policy:
    """Return the policy that `config` describes, on top of `memory`."""
    return _BY_CONFIG[type(config)].build(config, memory)


def _memory_settings(config: PolicyConfig) -> MemorySettings:
    settings_of = _BY_CONFIG[type(config)].memory
    return settings_of(config) if settings_of is not None else MemorySettings()


def _path_first(message: str) -> str:
    """Rewrite msgspec's "... - at `$.a.b`" as "a.b: ..."."""
    what, _, path = message.partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.fullmatch(what):
        path, what = ".".join(filter(None, (path, unknown[1]))), "no such setting"
    return f"{path}: {what}" if path else what
