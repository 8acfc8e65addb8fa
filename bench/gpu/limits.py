"""The least time a layer can take on an H200 by its data sheet, with no communication.

Every product takes the longer of reading its weights and of its arithmetic; activations, norms and routing
are free, experts perfectly balanced, nothing overlaps. 4.8 TB/s; dense, 989 TFLOPS bfloat16 and 1,979 FP8.
"""

from dataclasses import dataclass

from .model import Model

BYTES_PER_US = 4.8e6
BF16_FLOPS_PER_US = 989e6
FP8_FLOPS_PER_US = 1979e6

DEEPEP_DISPATCH_US, DEEPEP_COMBINE_US, DEEPEP_BATCH = 173.0, 314.0, 128
"""Published low-latency figures for 64 ranks at 128 tokens a rank (deepseek-ai/DeepEP, H800 with CX-7)."""
DEEPEP_FLOOR = 0.25
"""Share of those latencies that is taken to remain however small the batch: an assumption, not published."""


@dataclass(frozen=True, kw_only=True)
class LayerLimit:
    """Microseconds of one MoE layer by part."""

    projections: float
    attention: float
    shared: float
    routed: float
    gate: float

    @property
    def total(self) -> float:
        """The whole layer."""
        return self.projections + self.attention + self.shared + self.routed + self.gate


def decode_limit(model: Model, ranks: int, batch: int, context: int) -> LayerLimit:
    """One token of each of `batch` sequences; this GPU's experts get the rows of all ranks."""
    fp8_linears = (model.first_parameters, model.query_parameters, model.out_parameters)
    entries = batch * context
    flops_a_key = 2 * model.heads * (2 * model.rank + model.rope)
    own = model.experts // ranks * model.expert_parameters
    return LayerLimit(
        projections=sum(_fp8(parameters, batch) for parameters in fp8_linears)
        + max(
            model.expansion_parameters / BYTES_PER_US,
            2 * batch * model.expansion_parameters / BF16_FLOPS_PER_US,
        ),
        attention=max(
            entries * (model.rank + model.rope) * 2 / BYTES_PER_US, entries * flops_a_key / BF16_FLOPS_PER_US
        ),
        shared=_fp8(model.expert_parameters, batch),
        routed=max(own / BYTES_PER_US, 2 * model.top_k * batch * model.expert_parameters / FP8_FLOPS_PER_US),
        gate=model.hidden * model.experts * max(2 / BYTES_PER_US, 2 * batch / BF16_FLOPS_PER_US),
    )


def prefill_limit(model: Model, ranks: int, tokens: int, prompt: int) -> LayerLimit:
    """`tokens` tokens of prompts of `prompt` tokens, attention unabsorbed and causal."""
    linears = model.first_parameters + model.query_parameters + model.out_parameters
    flops_a_pair = 2 * model.heads * (model.nope + model.rope + model.value)
    own = model.experts // ranks * model.expert_parameters
    return LayerLimit(
        projections=_fp8(linears, tokens) + _fp8(model.expansion_parameters, tokens),
        attention=tokens * (prompt + 1) / 2 * flops_a_pair / BF16_FLOPS_PER_US,
        shared=_fp8(model.expert_parameters, tokens),
        routed=max(own / BYTES_PER_US, 2 * model.top_k * tokens * model.expert_parameters / FP8_FLOPS_PER_US),
        gate=model.hidden * model.experts * 2 * tokens / BF16_FLOPS_PER_US,
    )


def step_limit_us(model: Model, layer: LayerLimit, batch: int) -> float:
    """A whole decode step: MoE layers, dense layers, and the output head in bfloat16."""
    dense = layer.projections + layer.attention + _fp8(3 * model.hidden * model.dense_width, batch)
    head = model.hidden * model.vocab
    return (
        model.moe_layers * layer.total
        + model.dense_layers * dense
        + max(2 * head / BYTES_PER_US, 2 * batch * head / BF16_FLOPS_PER_US)
    )


def communication_us(batch: int) -> float:
    """Dispatch and combine of one layer, the published latency scaled to a batch."""
    return (DEEPEP_DISPATCH_US + DEEPEP_COMBINE_US) * max(batch / DEEPEP_BATCH, DEEPEP_FLOOR)


def _fp8(parameters: int, rows: int) -> float:
    return max(parameters / BYTES_PER_US, 2 * rows * parameters / FP8_FLOPS_PER_US)
