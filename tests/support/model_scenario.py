"""A short life of a model: prompts in chunks over cached context, then decode steps padded with dead rows.

Run as a script, it plays the scenario with every kernel in its Triton form, in the interpreter, saves what
came of it and prints which Triton files were used:

    python -m support.model_scenario CHECKPOINT RESULT.safetensors [keep_fp8]
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    from baton.kernels.by_device import force_triton

    force_triton()  # before any operation is imported

import torch
from safetensors.torch import save_file
from torch import Tensor

from baton.engine.models import Model, load_model
from support.driver import Driver

PROMPTS = [[7, 11, 200, 31, 5, 77, 6], list(range(40, 50))]
BLOCK_TOKENS = 8
CHUNK = 7  # no multiple of a block: the second prompt goes on over cached context
DECODE_STEPS = 2  # the first sequence crosses a block's border
BUCKET = 4


def play(model: Model, forced: Tensor | None = None) -> dict[str, Tensor]:
    """Return logits and tokens: `prefill` [S, V], `decode` [steps, S, V], `tokens` [S, steps].

    forced  tokens to go on with, as another model chose them; absent: greedy ones
    """
    driver = Driver(model, block_tokens=BLOCK_TOKENS, num_blocks=32)
    sequences = [driver.sequence(prompt) for prompt in PROMPTS]
    last: dict[int, Tensor] = {}
    while pending := [i for i, s in enumerate(sequences) if s.computed < len(s.tokens)]:
        chunks = [
            (sequences[i], min(CHUNK, len(sequences[i].tokens) - sequences[i].computed)) for i in pending
        ]
        last |= dict(zip(pending, driver.prefill(chunks), strict=True))
    prefill = torch.stack([last[i] for i in range(len(sequences))])
    steps, logits = [], prefill
    for step in range(DECODE_STEPS):
        chosen = logits.argmax(-1) if forced is None else forced[:, step]
        for sequence, token in zip(sequences, chosen.tolist(), strict=True):
            sequence.tokens.append(token)
        logits = driver.decode(sequences, bucket=BUCKET)
        steps.append(logits)
    tokens = [sequence.tokens[len(prompt) :] for sequence, prompt in zip(sequences, PROMPTS, strict=True)]
    return {"prefill": prefill, "decode": torch.stack(steps), "tokens": torch.tensor(tokens)}


if __name__ == "__main__":
    loaded = load_model(Path(sys.argv[1]), **dict.fromkeys(sys.argv[3:], True))
    save_file(play(loaded), sys.argv[2])
    used = [name.rsplit(".", 1)[-1] for name in sys.modules if name.startswith("baton.kernels.")]
    sys.stdout.write(" ".join(name for name in used if name.endswith("_triton")))
