// Attention of prompts: blocks of queries against blocks of keys, softmax as the keys come (arXiv 2205.14135).

#include <algorithm>
#include <memory>

#include "product.h"

namespace {

constexpr int64_t QUERIES = 4 * TALL;  // whole tiles of a product; scores of a block stay in the second-level cache
constexpr int64_t KEYS = 256;

struct Block {
    float queries[QUERIES * 512];  // scaled; a head is at most 512 wide
    float scores[QUERIES * KEYS];
    float largest[QUERIES], total[QUERIES];
};

// Turns a row's first `seen` of `width` scores to weights; the others get weight 0. Returns what earlier
// weights shrink by.
INLINE float weigh(float *scores, int64_t seen, int64_t width, float &largest, float &total) {
    for (int64_t i = std::max<int64_t>(seen, 0); i < width; i++) scores[i] = -INFINITY;
    Floats most = all(largest);
    for (int64_t i = 0; i < width; i += LANES) {
        const Floats values = load(scores + i);
        most = values > most ? values : most;
    }
    float now = largest;
    for (int lane = 0; lane < LANES; lane++) now = std::max(now, most[lane]);
    const float shrink = now == largest ? 1.0f : std::exp(largest - now);
    Floats added = {};
    for (int64_t i = 0; i < width; i += LANES) {
        const Floats weights = exponential(load(scores + i) - now);
        store(scores + i, weights);
        added += weights;
    }
    total = total * shrink + sum(added);
    largest = now;
    return shrink;
}

}  // namespace

extern "C" int64_t attend_widest() { return 512; }

// q [kv_heads, group, queries, width] and out alike by strides, out as wide as values; logs [kv_heads, group,
// queries] dense; keys [kv_heads, keys, width], values [kv_heads, keys, value_width] by strides
extern "C" void attend(const float *q, const int64_t *q_strides, const float *k, const int64_t *k_strides,
                       const float *v, const int64_t *v_strides, float *out, const int64_t *out_strides,
                       float *logs, int64_t kv_heads, int64_t group, int64_t queries, int64_t keys, int64_t width,
                       int64_t value_width, float factor, int64_t is_causal, int64_t threads) {
    const int64_t pieces = (keys + KEYS - 1) / KEYS, blocks = (queries + QUERIES - 1) / QUERIES;
    // A product reads panels: of keys turned over, then of values, piece by piece.
    const int64_t key_room = Panels{nullptr, width, KEYS}.size();
    const int64_t room = key_room + Panels{nullptr, KEYS, value_width}.size();
    const std::unique_ptr<float[]> packed(new float[kv_heads * pieces * room]);
    team::share(threads, kv_heads * pieces, [&](int64_t task, int64_t) {
        const int64_t head = task / pieces, first = task % pieces * KEYS, count = std::min(KEYS, keys - first);
        float *to = packed.get() + task * room;
        pack(k + head * k_strides[0] + first * k_strides[1], 1, k_strides[1], to, width, count);
        pack(v + head * v_strides[0] + first * v_strides[1], v_strides[1], 1, to + key_room, count, value_width);
    });
    const std::unique_ptr<Block[]> own(new Block[threads]);
    team::share(threads, kv_heads * group * blocks, [&](int64_t task, int64_t worker) {
        Block *block = own.get() + worker;
        const int64_t first = (blocks - 1 - task / (kv_heads * group)) * QUERIES;  // the longest go first
        const int64_t head = task % (kv_heads * group) / group, member = task % group;
        const int64_t count = std::min(QUERIES, queries - first);
        const float *from = q + head * q_strides[0] + member * q_strides[1] + first * q_strides[2];
        for (int64_t i = 0; i < count; i++)
            for (int64_t d = 0; d < width; d++) block->queries[i * width + d] = from[i * q_strides[2] + d] * factor;
        std::fill(block->largest, block->largest + count, -INFINITY);
        std::fill(block->total, block->total + count, 0.0f);
        const int64_t place = (head * group + member) * queries + first, seen = is_causal ? first + count : keys;
        const int64_t step = out_strides[2];
        float *to = out + head * out_strides[0] + member * out_strides[1] + first * step;
        for (int64_t i = 0; i < count; i++) std::fill(to + i * step, to + i * step + value_width, 0.0f);
        for (int64_t start = 0; start < seen; start += KEYS) {
            const float *piece = packed.get() + (head * pieces + start / KEYS) * room;
            const int64_t held = std::min(KEYS, keys - start), wanted = std::min(KEYS, seen - start);
            const int64_t used = (wanted + PANEL - 1) / PANEL * PANEL;  // what a panel holds beyond is zeros
            product({block->queries, width}, {piece, width, used}, block->scores, KEYS, count);
            for (int64_t i = 0; i < count; i++) {
                const int64_t sees = (is_causal ? first + i + 1 : keys) - start;
                const float shrink = weigh(block->scores + i * KEYS, sees, used, block->largest[i], block->total[i]);
                if (start && shrink != 1.0f) scale(to + i * step, shrink, value_width);
            }
            product({block->scores, KEYS}, {piece + key_room, wanted, value_width, held}, to, step, count, true);
        }
        for (int64_t i = 0; i < count; i++) {
            scale(to + i * step, 1.0f / block->total[i], value_width);
            logs[place + i] = block->largest[i] + std::log(block->total[i]);
        }
    });
}
