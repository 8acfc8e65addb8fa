"""What a Hugging Face folder says about its text side: special tokens, stop ids, chat template.

Reads the small JSON files beside `tokenizer.json`; decodes no weights. Called once, when a worker starts.
"""

import re
from pathlib import Path
from typing import Any

import msgspec


class TokenizerFilesError(ValueError):
    """A checkpoint's text files are missing or do not say what they must; names the file."""


class TextSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The text settings of a checkpoint, from whichever of its files carries them."""

    bos_token: str | None
    eos_token: str | None
    add_bos_token: bool | None
    """None: the post-processor in `tokenizer.json` decides."""
    eos_token_ids: tuple[int, ...]
    """Every id that ends a generation, `generation_config.json` first; may be empty."""
    chat_template: str | None


def read_text_settings(folder: Path) -> TextSettings:
    """Read the settings from `folder`. Raises `TokenizerFilesError` naming the file at fault."""
    tokenizer_config = _read_object(folder / "tokenizer_config.json")
    return TextSettings(
        bos_token=_token_text(tokenizer_config.get("bos_token")),
        eos_token=_token_text(tokenizer_config.get("eos_token")),
        add_bos_token=tokenizer_config.get("add_bos_token"),
        eos_token_ids=_eos_token_ids(folder),
        chat_template=_chat_template(folder, tokenizer_config),
    )


def _eos_token_ids(folder: Path) -> tuple[int, ...]:
    for name in ("generation_config.json", "config.json"):
        value = _read_object(folder / name).get("eos_token_id")
        if value is None:
            continue
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int and token_id >= 0 for token_id in ids):
            raise TokenizerFilesError(f"{folder / name}: eos_token_id must be a token id or a list of them")
        return tuple(ids)
    return ()


def _chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> str | None:
    template_file = folder / "chat_template.jinja"
    if template_file.exists():
        return template_file.read_text(encoding="utf-8")
    template = _read_object(folder / "chat_template.json").get("chat_template")
    if template is None:
        template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several named ones: [{"name": "default", "template": "..."}, ...]
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if template is not None and not isinstance(template, str):
        raise TokenizerFilesError(f"{folder / 'tokenizer_config.json'}: chat_template must be a string")
    return template


def _token_text(value: object) -> str | None:
    """A special token is written as its text or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


_NON_FINITE = re.compile(rb"(?<=[\s:,\[])(-?Infinity|NaN)(?=[\s,\]}])")


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        # Some configs carry Python's Infinity or NaN in fields that do not concern text.
        return msgspec.json.decode(_NON_FINITE.sub(b"null", path.read_bytes()), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise TokenizerFilesError(f"{path}: {error}") from error
