// Attention of one token a sequence straight from the blocks of the KV pool; softmax as the keys come
// (arXiv 2205.14135). Heads that share keys go together, so that each key is read once for HEADS of them.

#pragma once

#include <algorithm>

#include "team.h"
#include "vectors.h"

namespace paged {

constexpr int HEADS = 4;
constexpr int KEYS = 32;
constexpr int AT_ONCE = 4;  // keys whose scores are summed side by side, vectors of a value likewise

struct Cache {
    const float *keys, *values;  // of the first block's first token, layer and head
    int64_t block_stride, token_stride, block_tokens;
};

struct Rows {
    const float *keys[KEYS], *values[KEYS];
    int count;
};

static void find(Rows &rows, const Cache &cache, const int32_t *table, int64_t start, int64_t end) {
    rows.count = static_cast<int>(std::min<int64_t>(KEYS, end - start));
    int64_t entry = start / cache.block_tokens, offset = start % cache.block_tokens;
    for (int i = 0; i < rows.count; i++) {
        const int64_t place = table[entry] * cache.block_stride + offset * cache.token_stride;
        rows.keys[i] = cache.keys + place;
        rows.values[i] = cache.values + place;
        if (++offset == cache.block_tokens) offset = 0, entry++;
    }
}

template <int COUNT>
INLINE void score(const float *q, int64_t width, const Rows &rows, float factor, float (*scores)[KEYS]) {
    for (int first = 0; first < rows.count; first += AT_ONCE) {
        const float *keys[AT_ONCE];
        const float *ahead[AT_ONCE];  // asked for early: the processor does not look past the end of a page
        for (int i = 0; i < AT_ONCE; i++) {
            keys[i] = rows.keys[std::min(first + i, rows.count - 1)];
            ahead[i] = rows.keys[std::min(first + AT_ONCE + i, rows.count - 1)];
        }
        Floats sums[COUNT][AT_ONCE] = {};
        int64_t d = 0;
        for (; d + LANES <= width; d += LANES) {
            Floats key[AT_ONCE];
#pragma GCC unroll 8
            for (int i = 0; i < AT_ONCE; i++) {
                key[i] = load(keys[i] + d);
                __builtin_prefetch(ahead[i] + d);
            }
#pragma GCC unroll 8
            for (int h = 0; h < COUNT; h++) {
                const Floats query = load(q + h * width + d);
#pragma GCC unroll 8
                for (int i = 0; i < AT_ONCE; i++) sums[h][i] += query * key[i];
            }
        }
        for (int h = 0; h < COUNT; h++)
            for (int i = 0; i < AT_ONCE && first + i < rows.count; i++) {
                float total = sum(sums[h][i]);
                for (int64_t rest = d; rest < width; rest++) total += q[h * width + rest] * keys[i][rest];
                scores[h][first + i] = total * factor;
            }
    }
}

// out[COUNT, width] += weights[COUNT, keys] @ values[keys, width]
template <int COUNT>
INLINE void mix(float (*weights)[KEYS], const Rows &rows, float *out, int64_t width) {
    int64_t d = 0;
    for (; d + AT_ONCE * LANES <= width; d += AT_ONCE * LANES) {
        Floats sums[COUNT][AT_ONCE];
#pragma GCC unroll 8
        for (int h = 0; h < COUNT; h++)
#pragma GCC unroll 8
            for (int j = 0; j < AT_ONCE; j++) sums[h][j] = load(out + h * width + d + j * LANES);
        for (int i = 0; i < rows.count; i++) {
            Floats value[AT_ONCE];
#pragma GCC unroll 8
            for (int j = 0; j < AT_ONCE; j++) value[j] = load(rows.values[i] + d + j * LANES);
#pragma GCC unroll 8
            for (int h = 0; h < COUNT; h++)
#pragma GCC unroll 8
                for (int j = 0; j < AT_ONCE; j++) sums[h][j] += weights[h][i] * value[j];
        }
#pragma GCC unroll 8
        for (int h = 0; h < COUNT; h++)
#pragma GCC unroll 8
            for (int j = 0; j < AT_ONCE; j++) store(out + h * width + d + j * LANES, sums[h][j]);
    }
    if (d == width) return;
    for (int i = 0; i < rows.count; i++)
        for (int h = 0; h < COUNT; h++)
            for (int64_t rest = d; rest < width; rest++)
                out[h * width + rest] += weights[h][i] * rows.values[i][rest];
}

// Turns scores to weights against the largest one so far; returns what earlier weights shrink by.
INLINE float weigh(float *scores, int count, float &largest, float &total) {
    float now = largest;
    for (int i = 0; i < count; i++) now = std::max(now, scores[i]);
    const float shrink = std::exp(largest - now);
    for (int i = count; i < KEYS; i++) scores[i] = -INFINITY;
    Floats added = {};
    for (int i = 0; i < KEYS; i += LANES) {
        const Floats weights = exponential(load(scores + i) - now);
        store(scores + i, weights);
        added += weights;
    }
    total = total * shrink + sum(added);
    largest = now;
    return shrink;
}

template <int COUNT>
static void attend(const float *q, const Cache &cache, const int32_t *table, int64_t length, int64_t width,
            int64_t value_width, float factor, float *out) {
    float largest[COUNT], total[COUNT] = {}, scores[COUNT][KEYS];
    std::fill(largest, largest + COUNT, -INFINITY);
    std::memset(out, 0, COUNT * value_width * sizeof(float));
    Rows rows;
    for (int64_t start = 0; start < length; start += KEYS) {
        find(rows, cache, table, start, length);
        score<COUNT>(q, width, rows, factor, scores);
        for (int h = 0; h < COUNT; h++) {
            const float shrink = weigh(scores[h], rows.count, largest[h], total[h]);
            if (start && shrink != 1.0f) scale(out + h * value_width, shrink, value_width);
        }
        mix<COUNT>(scores, rows, out, value_width);
    }
    for (int h = 0; h < COUNT && length; h++) scale(out + h * value_width, 1.0f / total[h], value_width);
}

// The shape of a call: q [batch, kv_heads, group, width] with rows of a batch `q_stride` apart, out dense.
struct Shape {
    int64_t batch, kv_heads, group, width, value_width, q_stride, head_stride;
};

// Head parts of a sequence: what one task attends for.
inline int64_t parts_of(const Shape &shape) { return shape.kv_heads * ((shape.group + HEADS - 1) / HEADS); }

// Attends for part `part` of sequence `row`.
static void decode_part(const float *q, const Shape &shape, const Cache &pool, const int32_t *tables,
                        int64_t table_stride, const int32_t *lengths, float factor, float *out, int64_t row,
                        int64_t part) {
    const int64_t parts = (shape.group + HEADS - 1) / HEADS, head = part / parts, first = part % parts * HEADS;
    const int64_t query = head * shape.group + first, length = lengths[row];
    Cache cache = pool;
    cache.keys += head * shape.head_stride;
    cache.values += head * shape.head_stride;
    const float *from = q + row * shape.q_stride + query * shape.width;
    float *to = out + (row * shape.kv_heads * shape.group + query) * shape.value_width;
    const int32_t *table = tables + row * table_stride;
    switch (std::min<int64_t>(HEADS, shape.group - first)) {
        case 1: return attend<1>(from, cache, table, length, shape.width, shape.value_width, factor, to);
        case 2: return attend<2>(from, cache, table, length, shape.width, shape.value_width, factor, to);
        case 3: return attend<3>(from, cache, table, length, shape.width, shape.value_width, factor, to);
        default: return attend<HEADS>(from, cache, table, length, shape.width, shape.value_width, factor, to);
    }
}

// Shared out: a task for each part of each sequence.
static void decode(const float *q, const Shape &shape, const Cache &pool, const int32_t *tables, int64_t table_stride,
                   const int32_t *lengths, float factor, float *out, int64_t threads) {
    const int64_t parts = parts_of(shape);
    team::share(threads, shape.batch * parts, [&](int64_t task, int64_t) {
        decode_part(q, shape, pool, tables, table_stride, lengths, factor, out, task / parts, task % parts);
    });
}

}  // namespace paged
