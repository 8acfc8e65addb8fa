// Attention of a layer for one token a sequence, from the normalised input to the output projection.

#pragma once

#include <cstdint>

struct Step {
    const int64_t *token_rows;  // of the pool, what each token's KV is written to
    const float *turns;         // [batch, pairs] complex
    const int32_t *tables;
    const int32_t *lengths;
    int64_t table_stride, batch, threads;
};

// Weights are panels, norms are not.
struct MlaLayer {
    const float *first, *q_norm, *q_b, *kv_norm;  // q_norm and q_b null without a query rank
    const float *absorb_keys, *absorb_values;     // of heads x [nope, rank], heads x [rank, v]
    const float *out;
    int64_t hidden, query_width, heads, nope, rank, rope, v;
    double eps, scale;
};

struct GqaLayer {
    const float *qkv, *qk_norm, *out;
    int64_t hidden, heads, kv_heads, dim;
    double eps, scale;
};

// x and out [batch, hidden] dense; pool: all of it, place: the first block of this layer
extern "C" void mla_decode_layer(const MlaLayer *layer, const Step *step, const float *x, float *pool, float *place,
                                 int64_t block_stride, int64_t block_tokens, float *out);

// The same for keys and values by head; place: the first block's keys of this layer, values behind all keys.
// token_rows [batch, 2 * kv_heads] are rows of `dim` values.
extern "C" void gqa_decode_layer(const GqaLayer *layer, const Step *step, const float *x, float *pool, float *place,
                                 int64_t block_stride, int64_t block_tokens, float *out);
