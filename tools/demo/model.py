"""A compact DeepSeek-V3 for training on a CPU: MLA, sigmoid-routed experts, one MTP layer.

Whole sequences only: no cache, no generation.  Parameter names are the published ones except that a
layer's routed experts are held fused (`experts.gate_up`, `experts.down`); `export.py` splits them.
Formulas: DeepSeek-V3 report (arXiv 2412.19437), sections 2.1 and 2.2.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import DemoConfig


class Norm(nn.Module):
    """RMSNorm with a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of `x`."""
        return functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A projection without bias, initialised by its width."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(layer.weight, std=inputs**-0.5 * 0.5)
    return layer


def rotation(config: DemoConfig, tokens: int) -> Tensor:
    """Unit complex numbers [tokens, rope/2] that turn pair i of position t by t * theta^(-2i/rope)."""
    pairs = torch.arange(0, config.qk_rope_head_dim, 2, dtype=torch.float32)
    angles = torch.outer(
        torch.arange(tokens).float(), config.rope_theta ** (-pairs / config.qk_rope_head_dim)
    )
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate `x` [batch, tokens, heads, rope], whose pairs are interleaved, by `turns` [tokens, rope/2]."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """Multi-head latent attention, not absorbed."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        heads, latent, rope = config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        self.q_proj = linear(config.hidden_size, heads * config.qk_head_dim)
        self.kv_a_proj_with_mqa = linear(config.hidden_size, latent + rope)
        self.kv_a_layernorm = Norm(latent, config.rms_norm_eps)
        self.kv_b_proj = linear(latent, heads * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = linear(heads * config.v_head_dim, config.hidden_size)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Causal attention over `x` [batch, tokens, hidden]."""
        c = self.config
        heads = (c.num_attention_heads, -1)
        q_nope, q_pe = self.q_proj(x).unflatten(-1, heads).split([c.qk_nope_head_dim, c.qk_rope_head_dim], -1)
        latent, k_pe = self.kv_a_proj_with_mqa(x).split([c.kv_lora_rank, c.qk_rope_head_dim], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(-1, heads)
        k_nope, v = kv.split([c.qk_nope_head_dim, c.v_head_dim], -1)
        k_pe = rotate(k_pe.unsqueeze(2), turns).expand(-1, -1, c.num_attention_heads, -1)
        q = torch.cat([q_nope, rotate(q_pe, turns)], -1).transpose(1, 2)
        k = torch.cat([k_nope, k_pe], -1).transpose(1, 2)
        # The fast CPU kernel wants values as wide as keys.
        v = functional.pad(v, (0, c.qk_head_dim - c.v_head_dim)).transpose(1, 2)
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)[..., : c.v_head_dim]
        mixed: Tensor = self.o_proj(out.transpose(1, 2).flatten(2))
        return mixed


class Mlp(nn.Module):
    """SwiGLU feed-forward: the dense layer and the shared expert."""

    def __init__(self, hidden: int, width: int) -> None:
        super().__init__()
        self.gate_proj = linear(hidden, width)
        self.up_proj = linear(hidden, width)
        self.down_proj = linear(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [..., hidden] to the same shape."""
        y: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Gate(nn.Module):
    """Sigmoid router whose choice, not whose weight, is shifted by a load-balancing bias (`noaux_tc`)."""

    e_score_correction_bias: Tensor

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.randn(config.n_routed_experts, config.hidden_size) * 0.02)
        self.register_buffer("e_score_correction_bias", torch.zeros(config.n_routed_experts))
        self.load = torch.zeros(config.n_routed_experts)  # rows an expert got since the last `balance`

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and expert numbers, both [rows, top_k], for `x` [rows, hidden]."""
        scores = functional.linear(x.float(), self.weight.float()).sigmoid()
        chosen = (scores + self.e_score_correction_bias).topk(self.config.num_experts_per_tok, -1).indices
        weights = scores.gather(1, chosen)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) * self.config.routed_scaling_factor
        return weights, chosen

    def balance(self, step: float) -> None:
        """Move the bias by `step` against the load, then forget the load."""
        self.e_score_correction_bias += step * torch.sign(self.load.mean() - self.load)
        self.load.zero_()


class Experts(nn.Module):
    """All routed experts of a layer; rows are sorted by expert and each expert runs once."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        count, hidden, width = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up = nn.Parameter(torch.randn(count, 2 * width, hidden) * hidden**-0.5 * 0.5)
        self.down = nn.Parameter(torch.randn(count, hidden, width) * width**-0.5 * 0.5)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted sum [rows, hidden] over each row's experts, and the rows each expert got [experts]."""
        top_k = chosen.shape[1]
        order = chosen.flatten().argsort(stable=True)
        rows = order // top_k
        load = chosen.flatten().bincount(minlength=len(self.down))
        parts = []
        for expert, part in enumerate(torch.split(x[rows], load.tolist())):
            gate, up = functional.linear(part, self.gate_up[expert]).chunk(2, -1)
            parts.append(functional.linear(functional.silu(gate) * up, self.down[expert]))
        weighted = torch.cat(parts) * weights.flatten()[order, None]
        return torch.zeros_like(x).index_add(0, rows, weighted), load


class Moe(nn.Module):
    """Routed experts plus the shared one."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.gate = Gate(config)
        self.experts = Experts(config)
        self.shared_experts = Mlp(config.hidden_size, config.moe_intermediate_size * config.n_shared_experts)

    def forward(self, x: Tensor) -> Tensor:
        """Map `x` [batch, tokens, hidden] to the same shape."""
        rows = x.flatten(0, 1)
        routed, load = self.experts(rows, *self.gate(rows))
        if self.training:
            self.gate.load += load
        shared: Tensor = self.shared_experts(x)
        return torch.add(routed.view_as(x), shared)


class Layer(nn.Module):
    """One transformer block, dense or with experts."""

    def __init__(self, config: DemoConfig, *, dense: bool) -> None:
        super().__init__()
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.mlp: Mlp | Moe = Mlp(config.hidden_size, config.intermediate_size) if dense else Moe(config)

    def forward(self, x: Tensor, turns: Tensor) -> Tensor:
        """Map `x` [batch, tokens, hidden] to the same shape."""
        x = x + self.self_attn(self.input_layernorm(x), turns)
        y: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return y


class NextLayer(Layer):
    """The MTP layer: from a position's final state and the token after it, predict the token after that."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__(config, dense=False)
        self.enorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = linear(2 * config.hidden_size, config.hidden_size)
        self.shared_head = nn.ModuleDict({"norm": Norm(config.hidden_size, config.rms_norm_eps)})

    def predict(self, embedded: Tensor, final: Tensor, turns: Tensor) -> Tensor:
        """States [batch, tokens, hidden] ready for the shared head.

        `embedded` are the embeddings of tokens t+1, `final` the main model's normed states at t.
        """
        x = self.eh_proj(torch.cat([self.enorm(embedded), self.hnorm(final)], -1))
        y: Tensor = self.shared_head["norm"](self(x, turns))
        return y


class DemoModel(nn.Module):
    """The main model and its MTP layer."""

    def __init__(self, config: DemoConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        self.layers = nn.ModuleList(
            Layer(config, dense=number < config.first_k_dense_replace)
            for number in range(config.num_hidden_layers)
        )
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.next_layer = NextLayer(config)

    def states(self, ids: Tensor) -> Tensor:
        """Normed final states [batch, tokens, hidden] of `ids` [batch, tokens]."""
        x = self.embed_tokens(ids)
        turns = rotation(self.config, ids.shape[1])
        for layer in self.layers:
            x = layer(x, turns)
        y: Tensor = self.norm(x)
        return y

    def next_states(self, ids: Tensor, states: Tensor) -> Tensor:
        """States [batch, tokens - 1, hidden] from which the head reads token t + 2 at position t."""
        embedded = self.embed_tokens(ids[:, 1:])
        turns = rotation(self.config, embedded.shape[1])
        return self.next_layer.predict(embedded, states[:, :-1], turns)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits [batch, tokens, vocab]."""
        logits: Tensor = self.lm_head(self.states(ids))
        return logits

    def balance(self, step: float) -> None:
        """Move every router's bias by `step` towards equal load."""
        for module in self.modules():
            if isinstance(module, Gate):
                module.balance(step)
