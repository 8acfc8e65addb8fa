"""The demo model's tokenizer: a byte-level BPE in which every digit is a token of its own.

Trained on the generator's own text; any UTF-8 text survives a round trip, because all 256 bytes are
in the vocabulary.  Writes the Hugging Face files, chat template included.  Called by `train.py` and
`export.py`; nothing here needs torch.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from .facts import draw_fact, draw_filler
from .generator import Dialogue, training_dialogue

BOS, EOS, SYSTEM, USER, ASSISTANT = SPECIAL = (
    "<|bos|>",
    "<|eos|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
BOS_ID, EOS_ID, SYSTEM_ID, USER_ID, ASSISTANT_ID = range(len(SPECIAL))

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content | trim }}
{%- else -%}
{%- for part in content -%}
{%- if part.type != 'text' -%}{{ raise_exception('this model reads text parts only') }}{%- endif -%}
{{ part.text }}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{{- '<|bos|>' -}}
{%- for message in messages -%}
{%- if message.role == 'system' -%}{{- '<|system|>' + text(message.content) -}}
{%- elif message.role == 'user' -%}{{- '<|user|>' + text(message.content) -}}
{%- elif message.role == 'assistant' -%}{{- '<|assistant|>' + text(message.content) + '<|eos|>' -}}
{%- else -%}{{- raise_exception('unknown role: ' + message.role) -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def train_tokenizer(seed: int, vocab_size: int, dialogues: int = 3000) -> Tokenizer:
    """Learn the merges from `dialogues` conversations drawn with `seed`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(seed, dialogues), trainer=trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, BOS_ID)]
    )
    return tokenizer


def _corpus(seed: int, dialogues: int) -> Iterator[str]:
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(dialogues):
        for turn in training_dialogue(rng, 100, lambda text: len(text) // 4).turns:
            yield turn.user
            yield turn.answer
        yield " ".join(draw_filler(rng) for _ in range(4)) + " " + draw_fact(rng).sentence


def encode_dialogue(tokenizer: Tokenizer, dialogue: Dialogue) -> tuple[list[int], list[bool]]:
    """Token ids of the whole conversation as the chat template renders it, and which of them are answer.

    The mark of an answer covers its text and the end-of-sequence token, not the role mark before it.
    """
    ids, is_answer = [BOS_ID], [False]

    def add(tokens: list[int], answer: bool) -> None:
        ids.extend(tokens)
        is_answer.extend([answer] * len(tokens))

    if dialogue.system is not None:
        add([SYSTEM_ID, *encode(tokenizer, dialogue.system)], answer=False)
    for turn in dialogue.turns:
        add([USER_ID, *encode(tokenizer, turn.user), ASSISTANT_ID], answer=False)
        add([*encode(tokenizer, turn.answer), EOS_ID], answer=True)
    return ids, is_answer


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of plain text, without the beginning-of-sequence token."""
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_tokens: int) -> None:
    """Write tokenizer.json and tokenizer_config.json (with the chat template) into `folder`."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_tokens,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
