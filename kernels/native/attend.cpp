// Attention of prompts: blocks of queries against blocks of keys, softmax as the keys come (arXiv 2205.14135).

#include <algorithm>
#include <memory>

#include "matrix_unit.h"

namespace {

constexpr int64_t QUERIES = 64;  // of a block at most; its scores stay in the second-level cache
constexpr int64_t KEYS = 256;

struct Block {
    float queries[QUERIES * 512];  // scaled; a head is at most 512 wide
    float scores[QUERIES * KEYS];
    float largest[QUERIES], total[QUERIES];
};

// What products read, piece by piece: panels of keys turned over, then of values; on the matrix unit their parts.
class Pieces {
  public:
    Pieces(int64_t count, int64_t width, int64_t value_width, bool splits)
        : width_(width), value_width_(value_width), key_room_(Panels{nullptr, width, KEYS}.size()),
          room_(key_room_ + Panels{nullptr, KEYS, value_width}.size()), room(new float[count * room_]) {
        if (!splits) return;
        key_parts_ = matrix_unit::parts_size({nullptr, width, KEYS});
        parts_ = key_parts_ + matrix_unit::parts_size({nullptr, KEYS, value_width});
        parts.reset(new Line[count * parts_ / LINE]);
    }

    void fill(int64_t piece, int64_t count, Matrix keys, Matrix values) const {
        float *to = room.get() + piece * room_;
        pack(keys.values, 1, keys.stride, to, width_, count);
        pack(values.values, values.stride, 1, to + key_room_, count, value_width_);
        if (!parts) return;
        matrix_unit::split({to, width_, count}, parts_of(piece));
        matrix_unit::split({to + key_room_, count, value_width_}, parts_of(piece) + key_parts_);
    }

    Panels keys(int64_t piece, int64_t columns) const {
        return {room.get() + piece * room_, width_, columns, 0, parts_of(piece)};
    }

    // The first `wanted` of the `held` values of a piece.
    Panels values(int64_t piece, int64_t wanted, int64_t held) const {
        const uint32_t *own = parts_of(piece);
        return {room.get() + piece * room_ + key_room_, wanted, value_width_, held, own ? own + key_parts_ : own};
    }

  private:
    static constexpr int64_t LINE = 16;
    struct alignas(64) Line {
        uint32_t pairs[LINE];
    };

    uint32_t *parts_of(int64_t piece) const { return parts ? parts[piece * parts_ / LINE].pairs : nullptr; }

    int64_t width_, value_width_, key_room_, room_, key_parts_ = 0, parts_ = 0;
    std::unique_ptr<float[]> room;
    std::unique_ptr<Line[]> parts;
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
        const Floats weights = exponential_up_to_88(load(scores + i) - now);
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
    const bool has_unit = queries >= matrix_unit::FEWEST_ROWS && matrix_unit::is_usable();
    const int64_t most = has_unit ? QUERIES : 4 * TALL, blocks = (queries + most - 1) / most;  // whole tiles
    const int64_t pieces = (keys + KEYS - 1) / KEYS;
    const Pieces packed(kv_heads * pieces, width, value_width, has_unit);
    team::share(threads, kv_heads * pieces, [&](int64_t task, int64_t) {
        const int64_t head = task / pieces, first = task % pieces * KEYS, count = std::min(KEYS, keys - first);
        packed.fill(task, count, {k + head * k_strides[0] + first * k_strides[1], k_strides[1]},
                    {v + head * v_strides[0] + first * v_strides[1], v_strides[1]});
    });
    const std::unique_ptr<Block[]> own(new Block[threads]);
    team::share(threads, kv_heads * group * blocks, [&](int64_t task, int64_t worker) {
        Block *block = own.get() + worker;
        const int64_t first = (blocks - 1 - task / (kv_heads * group)) * most;  // the longest go first
        const int64_t head = task % (kv_heads * group) / group, member = task % group;
        const int64_t count = std::min(most, queries - first);
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
            const int64_t piece = head * pieces + start / KEYS;
            const int64_t held = std::min(KEYS, keys - start), wanted = std::min(KEYS, seen - start);
            const int64_t used = (wanted + PANEL - 1) / PANEL * PANEL;  // what a panel holds beyond is zeros
            product({block->queries, width}, packed.keys(piece, used), block->scores, KEYS, count);
            for (int64_t i = 0; i < count; i++) {
                const int64_t sees = (is_causal ? first + i + 1 : keys) - start;
                const float shrink = weigh(block->scores + i * KEYS, sees, used, block->largest[i], block->total[i]);
                if (start && shrink != 1.0f) scale(to + i * step, shrink, value_width);
            }
            product({block->scores, KEYS}, packed.values(piece, wanted, held), to, step, count, true);
        }
        for (int64_t i = 0; i < count; i++) {
            scale(to + i * step, 1.0f / block->total[i], value_width);
            logs[place + i] = block->largest[i] + std::log(block->total[i]);
        }
    });
}
