// What is done to each row by itself: norms, rotations, activation, routing, and rows of the KV pool.

#include <algorithm>

#include "rows.h"
#include "team.h"

namespace {

INLINE float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

constexpr int64_t EXPERTS = 1024;
constexpr int64_t MANY = 16;  // rows of a task; fewer are not worth sharing

// The largest of those not yet taken, the first of equal ones; a NaN counts as larger than nothing.
INLINE int64_t best(const float *scores, const bool *taken, int64_t count) {
    int64_t found = -1;
    for (int64_t i = 0; i < count; i++)
        if (!taken[i] && (found < 0 || scores[i] > scores[found])) found = i;
    return found;
}

// Marks the experts outside the `top_groups` best groups as taken.
void close_groups(const float *scores, bool *taken, int64_t experts, int64_t groups, int64_t top_groups, int counted) {
    float sums[EXPERTS];
    bool chosen[EXPERTS] = {};
    const int64_t size = experts / groups;
    for (int64_t group = 0; group < groups; group++) {
        bool seen[EXPERTS] = {};
        sums[group] = 0;
        for (int i = 0; i < counted; i++) {
            const int64_t expert = best(scores + group * size, seen, size);
            seen[expert] = true;
            sums[group] += scores[group * size + expert];
        }
    }
    for (int64_t i = 0; i < top_groups; i++) chosen[best(sums, chosen, groups)] = true;
    for (int64_t expert = 0; expert < experts; expert++) taken[expert] = !chosen[expert / size];
}

// Routes one token.
void route_token(const float *own, const float *bias, float *weights, int64_t *ids, int64_t experts, int64_t top_k,
                 int64_t groups, int64_t top_groups, bool normalises, float factor) {
    float scores[EXPERTS], choice[EXPERTS];
    bool taken[EXPERTS] = {};
    if (bias) {
        for (int64_t e = 0; e < experts; e++) scores[e] = sigmoid(own[e]), choice[e] = scores[e] + bias[e];
    } else {
        const float most = *std::max_element(own, own + experts);
        float total = 0;
        for (int64_t e = 0; e < experts; e++) total += scores[e] = std::exp(own[e] - most);
        for (int64_t e = 0; e < experts; e++) choice[e] = scores[e] /= total;
    }
    if (top_groups < groups) close_groups(choice, taken, experts, groups, top_groups, bias ? 2 : 1);
    float total = 0;
    for (int64_t k = 0; k < top_k; k++) {
        const int64_t expert = best(choice, taken, experts);
        taken[expert] = true;
        ids[k] = expert;
        total += weights[k] = scores[expert];
    }
    const float scale_by = (normalises ? 1.0f / (total + 1e-20f) : 1.0f) * (bias || !normalises ? factor : 1.0f);
    scale(weights, scale_by, top_k);
}

}  // namespace

extern "C" int64_t route_most_experts() { return EXPERTS; }

// x and out [outer, inner, width] by strides, rows dense; weight [inner, width] by weight_stride, 0 for one of all
extern "C" void rms_norm(const float *x, int64_t outer_stride, int64_t inner_stride, const float *weight,
                         int64_t weight_stride, float *out, int64_t out_outer, int64_t out_inner, int64_t outer,
                         int64_t inner, int64_t width, float eps, int64_t threads) {
    team::share_runs(threads, outer, MANY, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
            for (int64_t j = 0; j < inner; j++)
                normalise(x + i * outer_stride + j * inner_stride, weight + j * weight_stride,
                          out + i * out_outer + j * out_inner, width, eps);
    });
}

// residual += x, out = norm of the sum; all [rows, width] and dense
extern "C" void add_rms_norm(const float *x, float *residual, const float *weight, float *out, int64_t rows,
                             int64_t width, float eps, int64_t threads) {
    team::share_runs(threads, rows, MANY, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) {
            float *total = residual + row * width;
            for (int64_t i = 0; i < width; i++) total[i] += x[row * width + i];
            normalise(total, weight, out + row * width, width, eps);
        }
    });
}

// x [outer, inner, 2 * pairs] by strides; turns [outer, pairs] complex. Pairs lie side by side.
extern "C" void rope_interleaved(float *x, int64_t outer_stride, int64_t inner_stride, const float *turns,
                                 int64_t turn_stride, int64_t outer, int64_t inner, int64_t pairs,
                                 int64_t threads) {
    team::share_runs(threads, outer, MANY, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
            for (int64_t j = 0; j < inner; j++)
                turn_interleaved(x + i * outer_stride + j * inner_stride, turns + i * turn_stride, pairs);
    });
}

// The same where value p pairs with value p + pairs.
extern "C" void rope_halves(float *x, int64_t outer_stride, int64_t inner_stride, const float *turns,
                            int64_t turn_stride, int64_t outer, int64_t inner, int64_t pairs,
                            int64_t threads) {
    team::share_runs(threads, outer, MANY, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; i++)
            for (int64_t j = 0; j < inner; j++)
                turn_halves(x + i * outer_stride + j * inner_stride, turns + i * turn_stride, pairs);
    });
}

// gate_up [rows, 2 * width], out [rows, width], both dense
extern "C" void silu_mul(const float *gate_up, float *out, int64_t rows, int64_t width, int64_t threads) {
    team::share_runs(threads, rows, MANY, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) silu_row(gate_up + row * 2 * width, out + row * width, width);
    });
}

// slots [tokens] dense; rows [layers, tokens * planes] of a pool [blocks, layers, planes, block_tokens, ..]
extern "C" void token_rows(const int64_t *slots, int64_t tokens, int64_t layers, int64_t planes, int64_t block_tokens,
                           int64_t *rows) {
    for (int64_t layer = 0; layer < layers; layer++)
        for (int64_t token = 0; token < tokens; token++) {
            const int64_t block = slots[token] / block_tokens, offset = slots[token] % block_tokens;
            for (int64_t plane = 0; plane < planes; plane++)
                *rows++ = ((block * layers + layer) * planes + plane) * block_tokens + offset;
        }
}

// pool [.., width] and rows [tokens * inner] dense, values [tokens, inner, width] by strides
extern "C" void write_rows(float *pool, const int64_t *rows, const float *values, int64_t stride, int64_t inner_stride,
                           int64_t tokens, int64_t inner, int64_t width, int64_t threads) {
    team::share_runs(threads, tokens, MANY, [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; token++)
            for (int64_t i = 0; i < inner; i++)
                std::memcpy(pool + rows[token * inner + i] * width, values + token * stride + i * inner_stride,
                            width * sizeof(float));
    });
}

// logits [tokens, experts], weights and ids [tokens, top_k], all dense. With a bias: sigmoid scores, of which
// biased ones choose and a group counts as its best two; without: softmax, a group as its best.
extern "C" void route(const float *logits, const float *bias, float *weights, int64_t *ids, int64_t tokens,
                      int64_t experts, int64_t top_k, int64_t groups, int64_t top_groups, int64_t normalises,
                      float factor, int64_t threads) {
    team::share_runs(threads, tokens, MANY, [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; token++)
            route_token(logits + token * experts, bias, weights + token * top_k, ids + token * top_k, experts, top_k,
                        groups, top_groups, normalises, factor);
    });
}
