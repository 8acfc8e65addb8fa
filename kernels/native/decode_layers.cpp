// `decode_layers.h`: what comes between the products stays in the caches, and Python is asked once. Rows are few,
// weights are read once.

#include <memory>

#include "decode_layers.h"
#include "paged_decode.h"
#include "product.h"
#include "rows.h"

constexpr int64_t FEW = 4;  // rows of a task between products

// One product a head, shared out: a head's columns of `left` lie `left_step` apart, those of `target` `step`.
static void shared_by_head(int64_t threads, int64_t heads, Matrix left, int64_t left_step, const Panels &right,
                           float *target, int64_t stride, int64_t step, int64_t rows) {
    const int64_t size = panels_a_task(rows, right, threads), groups = (right.count() + size - 1) / size;
    team::share(threads, heads * groups, [&](int64_t task, int64_t) {
        const int64_t head = task / groups, panel = task % groups * size;
        product({left.values + head * left_step, left.stride},
                {right.values + head * right.size(), right.depth, right.columns}, panel,
                std::min(panel + size, right.count()), target + head * step, stride, rows, false);
    });
}

extern "C" void mla_decode_layer(const MlaLayer *layer, const Step *step, const float *x, float *pool, float *place,
                                 int64_t block_stride, int64_t block_tokens, float *out) {
    const MlaLayer &own = *layer;
    const int64_t batch = step->batch, threads = step->threads, heads = own.heads, width = own.rank + own.rope;
    const int64_t qk = own.nope + own.rope, queries = heads * qk, wide = own.query_width + width;
    const float eps = static_cast<float>(own.eps);
    const std::unique_ptr<float[]> room(
        new float[batch * (wide + own.query_width + queries + heads * (width + own.rank + own.v))]);
    float *first = room.get(), *normed = first + batch * wide, *q = normed + batch * own.query_width;
    float *absorbed = q + batch * queries, *mixed = absorbed + batch * heads * width;
    float *values = mixed + batch * heads * own.rank;
    const paged::Shape shape{batch, 1, heads, width, own.rank, heads * width, 0};
    const int64_t parts = paged::parts_of(shape);
    const paged::Cache cache{place, place, block_stride, width, block_tokens};
    const Panels keys{own.absorb_keys, own.nope, own.rank}, expansion{own.absorb_values, own.rank, own.v};
    shared_product(threads, {x, own.hidden}, {own.first, own.hidden, wide}, first, wide, batch);
    const auto enter = [&](int64_t row) {
        float *entry = first + row * wide + own.query_width;
        normalise(entry, own.kv_norm, entry, own.rank, eps);
        turn_interleaved(entry + own.rank, step->turns + row * own.rope, own.rope / 2);
        std::memcpy(pool + step->token_rows[row] * width, entry, width * sizeof(float));
        if (own.q_norm)
            normalise(first + row * wide, own.q_norm, normed + row * own.query_width, own.query_width, eps);
        else
            std::memcpy(q + row * queries, first + row * wide, queries * sizeof(float));
    };
    team::share_runs(threads, batch, FEW, [&](int64_t from, int64_t last) {
        for (int64_t row = from; row < last; row++) enter(row);
    });
    if (own.q_norm)
        shared_product(threads, {normed, own.query_width}, {own.q_b, own.query_width, queries}, q, queries, batch);
    shared_by_head(threads, heads, {q, queries}, qk, keys, absorbed, heads * width, width, batch);
    team::share(threads, batch * parts, [&](int64_t task, int64_t) {
        const int64_t row = task / parts, part = task % parts;
        const int64_t last = std::min(heads, (part + 1) * paged::HEADS);
        for (int64_t head = part * paged::HEADS; head < last; head++) {
            float *turned = q + row * queries + head * qk + own.nope;
            turn_interleaved(turned, step->turns + row * own.rope, own.rope / 2);
            std::memcpy(absorbed + (row * heads + head) * width + own.rank, turned, own.rope * sizeof(float));
        }
        paged::decode_part(absorbed, shape, cache, step->tables, step->table_stride, step->lengths,
                           static_cast<float>(own.scale), mixed, row, part);
    });
    shared_by_head(threads, heads, {mixed, heads * own.rank}, own.rank, expansion, values, heads * own.v, own.v,
                   batch);
    shared_product(threads, {values, heads * own.v}, {own.out, heads * own.v, own.hidden}, out, own.hidden, batch);
}

extern "C" void gqa_decode_layer(const GqaLayer *layer, const Step *step, const float *x, float *pool, float *place,
                                 int64_t block_stride, int64_t block_tokens, float *out) {
    const GqaLayer &own = *layer;
    const int64_t batch = step->batch, threads = step->threads, dim = own.dim, kv = 2 * own.kv_heads;
    const int64_t turned = own.heads + own.kv_heads, wide = (own.heads + kv) * dim, head_stride = block_tokens * dim;
    const std::unique_ptr<float[]> room(new float[batch * (wide + own.heads * dim)]);
    float *qkv = room.get(), *mixed = qkv + batch * wide;
    const paged::Shape shape{batch, own.kv_heads, own.heads / own.kv_heads, dim, dim, wide, head_stride};
    const paged::Cache cache{place, place + own.kv_heads * head_stride, block_stride, dim, block_tokens};
    shared_product(threads, {x, own.hidden}, {own.qkv, own.hidden, wide}, qkv, wide, batch);
    const auto enter = [&](int64_t row) {
        float *own_row = qkv + row * wide;
        for (int64_t head = 0; head < turned; head++) {
            float *values = own_row + head * dim;
            normalise(values, own.qk_norm + head * dim, values, dim, static_cast<float>(own.eps));
            turn_halves(values, step->turns + row * dim, dim / 2);
        }
        for (int64_t plane = 0; plane < kv; plane++)
            std::memcpy(pool + step->token_rows[row * kv + plane] * dim, own_row + (own.heads + plane) * dim,
                        dim * sizeof(float));
    };
    team::share_runs(threads, batch, FEW, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; row++) enter(row);
    });
    paged::decode(qkv, shape, cache, step->tables, step->table_stride, step->lengths, static_cast<float>(own.scale),
                  mixed, threads);
    shared_product(threads, {mixed, own.heads * dim}, {own.out, own.heads * dim, own.hidden}, out, own.hidden, batch);
}

// Attention alone.
// q [batch, kv_heads, group, width], out [batch, kv_heads, group, value_width], both dense;
// tables [batch, table_stride], lengths [batch]; strides in values
extern "C" void paged_decode(const float *q, const float *keys, const float *values, int64_t block_stride,
                             int64_t head_stride, int64_t token_stride, int64_t block_tokens, const int32_t *tables,
                             int64_t table_stride, const int32_t *lengths, int64_t batch, int64_t kv_heads,
                             int64_t group, int64_t width, int64_t value_width, float factor, float *out,
                             int64_t threads) {
    const paged::Shape shape{batch, kv_heads, group, width, value_width, kv_heads * group * width, head_stride};
    const paged::Cache pool{keys, values, block_stride, token_stride, block_tokens};
    paged::decode(q, shape, pool, tables, table_stride, lengths, factor, out, threads);
}
