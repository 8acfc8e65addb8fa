"""Policy files: one YAML mapping, tagged by `policy:`, strict, with every default in a struct.

    policy: pair_cost
    scales: {prefill: 1.5}

A file that is not understood whole is refused with the path of the key that is at fault.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import msgspec
import yaml

from .cache_aware import CacheAware, CacheAwareConfig
from .dynamo_cost import DynamoCost, DynamoCostConfig
from .least_loaded import LeastLoaded, LeastLoadedConfig
from .least_tokens import LeastTokens
from .lmetric import LMetric, LMetricConfig
from .memory import IndexConfig, RoutingMemory
from .pair_cost import PairCost, PairCostConfig
from .policy import Policy
from .power_of_two import PowerOfTwo, PowerOfTwoConfig
from .random_choice import RandomChoice, RandomConfig
from .rates import RateConfig
from .round_robin import RoundRobin
from .scorers import Scorers, ScorersConfig


class RoundRobinConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="policy",
    tag="round_robin",
):
    """Settings of `round_robin`: none."""


class LeastTokensConfig(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="policy",
    tag="least_tokens",
):
    """Settings of `least_tokens`: none."""


PolicyConfig = (
    RoundRobinConfig
    | RandomConfig
    | LeastLoadedConfig
    | LeastTokensConfig
    | PowerOfTwoConfig
    | CacheAwareConfig
    | ScorersConfig
    | DynamoCostConfig
    | LMetricConfig
    | PairCostConfig
)
DEFAULTS: dict[str, PolicyConfig] = {
    "round_robin": RoundRobinConfig(),
    "random": RandomConfig(),
    "least_loaded": LeastLoadedConfig(),
    "least_tokens": LeastTokensConfig(),
    "power_of_two": PowerOfTwoConfig(),
    "cache_aware": CacheAwareConfig(),
    "scorers": ScorersConfig(),
    "dynamo_cost": DynamoCostConfig(),
    "lmetric": LMetricConfig(),
    "pair_cost": PairCostConfig(),
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
        config: PolicyConfig = msgspec.convert(tree, PolicyConfig)
    except msgspec.ValidationError as error:
        raise PolicyFileError(f"{source}: {_path_first(str(error))}") from error
    return config


def dump_policy(config: PolicyConfig) -> str:
    """Return a policy file's text with every setting written out."""
    return yaml.safe_dump(msgspec.to_builtins(config), sort_keys=False)


def memory_for(config: PolicyConfig, *, now: float) -> RoutingMemory:
    """Return a fresh memory with the settings that `config` has for it, or the defaults."""
    match config:
        case PairCostConfig():
            return RoutingMemory(
                config.index, config.rates, now=now, kv_bytes_per_token=config.kv_bytes_per_token
            )
        case CacheAwareConfig() | ScorersConfig() | DynamoCostConfig() | LMetricConfig():
            return RoutingMemory(config.index, RateConfig(), now=now)
        case _:
            return RoutingMemory(IndexConfig(), RateConfig(), now=now)


def may_keep_memory(old: PolicyConfig, new: PolicyConfig) -> bool:
    """Whether what was learned under `old` can be kept under `new`: the index and the priors are the same."""
    return _memory_settings(old) == _memory_settings(new)


def build_policy(config: PolicyConfig, memory: RoutingMemory) -> Policy:
    """Return the policy that `config` describes, on top of `memory`."""
    match config:
        case CacheAwareConfig():
            return CacheAware(config, memory)
        case ScorersConfig():
            return Scorers(config, memory)
        case DynamoCostConfig():
            return DynamoCost(config, memory)
        case LMetricConfig():
            return LMetric(config, memory)
        case PairCostConfig():
            return PairCost(config, memory)
        case _:
            return _without_memory(config)


def _without_memory(
    config: RoundRobinConfig | RandomConfig | LeastLoadedConfig | LeastTokensConfig | PowerOfTwoConfig,
) -> Policy:
    match config:
        case RoundRobinConfig():
            return RoundRobin()
        case RandomConfig():
            return RandomChoice(config)
        case LeastLoadedConfig():
            return LeastLoaded(config)
        case LeastTokensConfig():
            return LeastTokens()
        case PowerOfTwoConfig():
            return PowerOfTwo(config)


def _memory_settings(config: PolicyConfig) -> tuple[IndexConfig, RateConfig, float | None]:
    match config:
        case PairCostConfig():
            return config.index, config.rates, config.kv_bytes_per_token
        case CacheAwareConfig() | ScorersConfig() | DynamoCostConfig() | LMetricConfig():
            return config.index, RateConfig(), None
        case _:
            return IndexConfig(), RateConfig(), None


def _path_first(message: str) -> str:
    """Rewrite msgspec's "... - at `$.a.b`" as "a.b: ..."."""
    what, _, path = message.partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    if unknown := _UNKNOWN.fullmatch(what):
        path, what = ".".join(filter(None, (path, unknown[1]))), "no such setting"
    return f"{path}: {what}" if path else what
