"""One row at a time, as the definition says it, to compare the sampler with."""

import numpy as np
import numpy.typing as npt

from baton.engine.messages import SamplingParams

Row = npt.NDArray[np.float64]


def adjusted_row(logits: Row, params: SamplingParams, prompt: list[int], generated: list[int]) -> Row:
    """The row after logit_bias, min_tokens and penalties."""
    row = logits.astype(np.float32).copy()
    for token, value in params.logit_bias.items():
        row[token] += np.float32(value)
    if len(generated) < params.min_tokens:
        for token in params.stop_token_ids:
            row[token] = -np.inf
    for token in set(prompt) | set(generated):
        penalty = np.float32(params.repetition_penalty)
        row[token] = row[token] / penalty if row[token] > 0 else row[token] * penalty
    for token in set(generated):
        row[token] -= np.float32(params.frequency_penalty) * generated.count(token) + np.float32(
            params.presence_penalty
        )
    return row.astype(np.float64)


def filtered_probabilities(row: Row, params: SamplingParams) -> Row:
    """The distribution a non-greedy row is drawn from, after temperature, min_p, top_k and top_p."""
    scaled = (row - row.max()) / params.temperature
    weights = np.exp(scaled)
    weights[weights < params.min_p] = 0.0
    order = sorted(range(len(row)), key=lambda token: (-weights[token], token))
    if params.top_k is not None:
        for token in order[params.top_k :]:
            weights[token] = 0.0
    mass, kept = 0.0, []
    for token in order:
        kept.append(token)
        mass += weights[token]
        if mass >= params.top_p * weights.sum() * (1 - 1e-12):
            break
    probabilities = np.zeros_like(weights)
    probabilities[kept] = weights[kept]
    return probabilities / probabilities.sum()
