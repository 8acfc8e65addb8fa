"""The architectures that are known, by `model_type`, and reading a folder's `config.json`. No torch.

A `model_type` that is not known, a missing key or an ill-typed one is an error that names file and key.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from .config import ConfigError, ModelConfig
from .config_file import as_ids
from .deepseek import DeepseekFile, deepseek_config
from .qwen3_moe import Qwen3MoeFile, qwen3_moe_config


def _deepseek(raw: dict[str, Any]) -> ModelConfig:
    return deepseek_config(msgspec.convert(raw, DeepseekFile))


def _qwen3_moe(raw: dict[str, Any]) -> ModelConfig:
    return qwen3_moe_config(msgspec.convert(raw, Qwen3MoeFile))


ARCHITECTURES: dict[str, Callable[[dict[str, Any]], ModelConfig]] = {
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "kimi_k2": _deepseek,
    "qwen3_moe": _qwen3_moe,
}


def read_model_config(folder: Path) -> ModelConfig:
    """Read `folder/config.json` (and the end tokens of `generation_config.json`). Raises `ConfigError`."""
    path = folder / "config.json"
    raw = _read_json(path)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ConfigError(f"{path}: model_type {model_type!r} is not known; known are {known}")
    try:
        config = ARCHITECTURES[model_type](raw)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{path}: {error}") from None
    return msgspec.structs.replace(config, eos_token_ids=_end_tokens(folder, config))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; a model is a folder in Hugging Face format") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _end_tokens(folder: Path, config: ModelConfig) -> tuple[int, ...]:
    """The end tokens of both files; `generation_config.json` often lists more than one."""
    path = folder / "generation_config.json"
    ids = _read_json(path).get("eos_token_id") if path.exists() else None
    try:
        more = as_ids(msgspec.convert(ids, int | list[int] | None))
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error} - at `$.eos_token_id`") from None
    return tuple(dict.fromkeys((*config.eos_token_ids, *more)))
