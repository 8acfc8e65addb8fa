// `matrix_unit.h`: a float32 is the sum of three bfloat16 without loss (24 bits are 3 * 8), so a product of two is the
// sum of nine. The six larger are computed, each exactly; the three left out are at most 2^-24 of the product, what
// rounding it to float32 would lose. The unit adds 16 products among themselves before it adds them to a sum, so that
// sums are closer to exact ones than those of a chain of float32 additions.
//
// What the unit does otherwise: it takes values and parts below 2^-126 for zero, and an infinite value gives NaN, since
// its parts have no sum.

#include "matrix_unit.h"

#include <atomic>
#include <memory>

#if defined(__AVX512F__) && defined(__linux__) && defined(__x86_64__) && (__GNUC__ >= 11 || __clang_major__ >= 12)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace matrix_unit {
namespace {

#define ON_MATRIX_UNIT __attribute__((target("amx-tile,amx-bf16")))

constexpr int64_t EDGE = 16;             // rows of a tile, and pairs in its row
constexpr int64_t DEPTH = 2 * EDGE;      // values in a row of a tile
constexpr int64_t TILE = EDGE * EDGE;    // pairs of a tile
constexpr int64_t PARTS = 3;
constexpr int64_t LEFT_STEP = PARTS * TILE, RIGHT_STEP = 2 * LEFT_STEP;  // of depth: pairs of a row tile, of a panel
constexpr int64_t SLAB = 4;              // steps; parts of two row tiles and of a panel stay in the first-level cache
constexpr int64_t DEEPEST = 512;         // depth whose parts of ROWS rows stay in the second-level cache
constexpr int64_t LINE_BYTES = 64;

struct alignas(64) Room {
    uint32_t left[ROWS / EDGE * (DEEPEST / DEPTH) * LEFT_STEP];  // [row tile][step][part] tiles
    uint32_t right[SLAB * RIGHT_STEP];                           // [step][part][half of the panel] tiles
    float sums[ROWS * PANEL];
};

// The three parts of two vectors, as pairs of one value of each, `step` pairs from part to part.
INLINE void split(__m512 low, __m512 high, uint32_t *to, int64_t step) {
    const __m512i upper = _mm512_set1_epi32(-65536), half = _mm512_set1_epi32(0x8000);
    for (int part = 0; part < PARTS; part++) {
        __m512i of_low = _mm512_castps_si512(low), of_high = _mm512_castps_si512(high);
        if (part < PARTS - 1) {  // rounded; of the last all bits are in the upper half
            of_low = _mm512_and_si512(_mm512_add_epi32(of_low, half), upper);
            of_high = _mm512_and_si512(_mm512_add_epi32(of_high, half), upper);
            low = _mm512_sub_ps(low, _mm512_castsi512_ps(of_low));
            high = _mm512_sub_ps(high, _mm512_castsi512_ps(of_high));
        }
        constexpr int EITHER_BY_MASK = 0xf8;  // a | (b & c)
        _mm512_store_si512(to + part * step, _mm512_ternarylogic_epi32(_mm512_srli_epi32(of_low, 16), of_high, upper,
                                                                       EITHER_BY_MASK));
    }
}

INLINE __m512 load_some(const float *from, int64_t count) {
    return _mm512_maskz_loadu_ps(count < LANES ? (1u << std::max<int64_t>(count, 0)) - 1 : 0xffff, from);
}

// Values k and k + 16 of a step of depth are a pair.
void split_left(Matrix left, int64_t rows, int64_t depth, uint32_t *to) {
    const int64_t steps = (depth + DEPTH - 1) / DEPTH;
    for (int64_t row = 0; row < (rows + EDGE - 1) / EDGE * EDGE; row++) {
        uint32_t *own = to + row / EDGE * steps * LEFT_STEP + row % EDGE * EDGE;
        const float *from = left.values + row * left.stride;
        const int64_t held = row < rows ? depth : 0;
        for (int64_t k = 0; k < depth; k += DEPTH, own += LEFT_STEP)
            split(load_some(from + k, held - k), load_some(from + k + EDGE, held - k - EDGE), own, TILE);
    }
}

void split_panel(const float *panel, int64_t depth, uint32_t *to) {
    for (int64_t k = 0; k < depth; k += DEPTH, to += RIGHT_STEP - TILE)
        for (int64_t row = k; row < k + EDGE; row++, to += EDGE)
            for (int64_t half = 0; half < 2; half++) {
                const float *low = panel + row * PANEL + half * LANES;
                split(load_some(low, row < depth ? LANES : 0),
                      load_some(low + EDGE * PANEL, row + EDGE < depth ? LANES : 0), to + half * TILE, 2 * TILE);
            }
}

struct alignas(64) TileShapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE, EDGE};
};

// target[2 * EDGE, PANEL] = (or += where `adds`) two row tiles, `second` pairs apart, by a panel
ON_MATRIX_UNIT void tile_products(const uint32_t *left, int64_t second, const uint32_t *right, int64_t steps,
                                  float *target, int64_t stride, bool adds) {
    const int64_t bytes = stride * sizeof(float);
    float *const lower = target + EDGE * stride;
    if (adds) {
        _tile_loadd(0, target, bytes);
        _tile_loadd(1, target + EDGE, bytes);
        _tile_loadd(2, lower, bytes);
        _tile_loadd(3, lower + EDGE, bytes);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
#define TAKE_LEFT(part)                                \
    _tile_loadd(4, left + (part) * TILE, LINE_BYTES); \
    _tile_loadd(5, left + second + (part) * TILE, LINE_BYTES)
#define TAKE_RIGHT(part)                                   \
    _tile_loadd(6, right + (part) * 2 * TILE, LINE_BYTES); \
    _tile_loadd(7, right + ((part) * 2 + 1) * TILE, LINE_BYTES)
#define ADD_PRODUCTS()       \
    _tile_dpbf16ps(0, 4, 6); \
    _tile_dpbf16ps(1, 4, 7); \
    _tile_dpbf16ps(2, 5, 6); \
    _tile_dpbf16ps(3, 5, 7)
    for (int64_t step = 0; step < steps; step++, left += LEFT_STEP, right += RIGHT_STEP) {
        TAKE_LEFT(0);  // from product to product one side changes
        TAKE_RIGHT(2);
        ADD_PRODUCTS();
        TAKE_RIGHT(1);
        ADD_PRODUCTS();
        TAKE_LEFT(1);
        ADD_PRODUCTS();
        TAKE_RIGHT(0);
        ADD_PRODUCTS();
        TAKE_LEFT(2);
        ADD_PRODUCTS();
        TAKE_LEFT(0);
        ADD_PRODUCTS();
    }
#undef TAKE_LEFT
#undef TAKE_RIGHT
#undef ADD_PRODUCTS
    _tile_stored(0, target, bytes);
    _tile_stored(1, target + EDGE, bytes);
    _tile_stored(2, lower, bytes);
    _tile_stored(3, lower + EDGE, bytes);
}

void put(const float *sums, float *target, int64_t stride, int64_t rows, int64_t columns, bool adds) {
    for (int64_t row = 0; row < rows; row++, sums += PANEL, target += stride)
        if (columns == PANEL)
            for (int64_t j = 0; j < PANEL; j += LANES)
                store(target + j, adds ? load(target + j) + load(sums + j) : load(sums + j));
        else
            for (int64_t j = 0; j < columns; j++) target[j] = adds ? target[j] + sums[j] : sums[j];
}

ON_MATRIX_UNIT void configure() {
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
}

ON_MATRIX_UNIT void release() { _tile_release(); }

int64_t steps_of(int64_t depth) { return (depth + DEPTH - 1) / DEPTH; }

// Of at most ROWS rows, and of at most DEEPEST values of depth from `k` on.
void block_product(Room &room, Matrix left, const Panels &right, int64_t k, int64_t first, int64_t last, float *target,
                   int64_t stride, int64_t rows, bool adds) {
    const int64_t depth = std::min(DEEPEST, right.depth - k), steps = steps_of(depth), tile_row = steps * LEFT_STEP;
    split_left({left.values + k, left.stride}, rows, depth, room.left);
    for (int64_t number = first; number < last; number++) {
        const int64_t column = number * PANEL, width = std::min<int64_t>(PANEL, right.columns - column);
        const int64_t direct = steps <= SLAB && width == PANEL ? rows / (2 * EDGE) * 2 * EDGE : 0;  // rows
        for (int64_t step = 0; step < steps; step += SLAB) {
            const int64_t from = k + step * DEPTH, count = std::min(SLAB, steps - step);
            const uint32_t *parts = right.parts;
            if (parts)
                parts += (number * steps_of(right.rows()) + from / DEPTH) * RIGHT_STEP;
            else
                split_panel(right.values + number * right.step() + from * PANEL,
                            std::min(right.depth - from, count * DEPTH), room.right);
            for (int64_t row = 0; row < rows; row += 2 * EDGE) {
                const bool is_direct = row < direct;
                tile_products(room.left + row / EDGE * tile_row + step * LEFT_STEP, row + EDGE < rows ? tile_row : 0,
                              parts ? parts : room.right, count,
                              is_direct ? target + row * stride + column : room.sums + row * PANEL,
                              is_direct ? stride : PANEL, is_direct ? adds : step > 0);
            }
        }
        put(room.sums + direct * PANEL, target + direct * stride + column, stride, rows - direct, width, adds);
    }
}

bool is_there() {
    constexpr unsigned BF16 = 1u << 22, TILES = 1u << 24;
    constexpr int ASK_FOR_STATE = 0x1023, TILE_DATA = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & BF16) == 0 || (d & TILES) == 0) return false;
    return syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

std::atomic<bool> is_wanted{true};

}  // namespace

bool is_usable() {
    static const bool there = is_there();
    return there && is_wanted.load(std::memory_order_relaxed);
}

int64_t parts_size(const Panels &right) { return right.count() * steps_of(right.rows()) * RIGHT_STEP; }

void split(const Panels &right, uint32_t *to) {
    const int64_t rows = right.rows();
    for (int64_t number = 0; number < right.count(); number++)
        split_panel(right.values + number * right.step(), rows, to + number * steps_of(rows) * RIGHT_STEP);
}

void product(Matrix left, const Panels &right, int64_t first, int64_t last, float *target, int64_t stride,
             int64_t rows, bool adds) {
    static thread_local const std::unique_ptr<Room> room(new Room);
    configure();
    for (int64_t row = 0; row < rows; row += ROWS)
        for (int64_t k = 0; k < right.depth; k += DEEPEST)
            block_product(*room, {left.values + row * left.stride, left.stride}, right, k, first, last,
                          target + row * stride, stride, std::min(ROWS, rows - row), adds || k > 0);
    release();
}

}  // namespace matrix_unit

extern "C" int64_t use_matrix_unit(int64_t wanted) {
    matrix_unit::is_wanted = wanted != 0;
    return matrix_unit::is_usable();
}

#else

bool matrix_unit::is_usable() { return false; }

int64_t matrix_unit::parts_size(const Panels &) { return 0; }

void matrix_unit::split(const Panels &, uint32_t *) {}

void matrix_unit::product(Matrix, const Panels &, int64_t, int64_t, float *, int64_t, int64_t, bool) {}

extern "C" int64_t use_matrix_unit(int64_t) { return false; }

#endif
