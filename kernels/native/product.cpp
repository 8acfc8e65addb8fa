// `product.h`: tiles that stay in registers while a panel passes by, and the next panel on its way meanwhile.

#include "product.h"

#include "matrix_unit.h"

static bool takes_matrix_unit(int64_t rows, int64_t panels) {
    return rows >= matrix_unit::FEWEST_ROWS && panels > 1 && matrix_unit::is_usable();
}

// What a tile asks for early: a share of the next panel, a step a row of this one. All tiles of a panel together
// ask for all of it, so that memory works while the processor multiplies.
struct Ahead {
    const char *from;
    int64_t step;
};

// target[ROWS, PANEL] = (or += where `adds`) left[ROWS, depth] @ panel[depth, PANEL]
template <int ROWS>
static void tile(Matrix left, const float *panel, int64_t depth, float *target, int64_t stride, bool adds,
                 Ahead ahead) {
    Floats sums[ROWS][WIDE];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) sums[i][j] = adds ? load(target + i * stride + j * LANES) : Floats{};
    for (int64_t k = 0; k < depth; k++) {
        Floats row[WIDE];
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) row[j] = load(panel + k * PANEL + j * LANES);
        __builtin_prefetch(ahead.from + k * ahead.step, 0, 2);
        __builtin_prefetch(ahead.from + k * ahead.step + 64, 0, 2);  // a lone tile's step is two lines
#pragma GCC unroll 12
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
            for (int j = 0; j < WIDE; j++) sums[i][j] += left.values[i * left.stride + k] * row[j];
    }
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 4
        for (int j = 0; j < WIDE; j++) store(target + i * stride + j * LANES, sums[i][j]);
}

template <int ROWS>
static void tiles(int rows, Matrix left, const float *panel, int64_t depth, float *target, int64_t stride, bool adds,
                  Ahead ahead) {
    if (rows == ROWS) return tile<ROWS>(left, panel, depth, target, stride, adds, ahead);
    if constexpr (ROWS > 1) tiles<ROWS - 1>(rows, left, panel, depth, target, stride, adds, ahead);
}

static void panel_product(Matrix left, const float *panel, int64_t depth, float *target, int64_t stride, int64_t rows,
                          bool adds) {
    const int64_t parts = (rows + TALL - 1) / TALL, share = PANEL * sizeof(float) / parts;
    const char *next = reinterpret_cast<const char *>(panel + depth * PANEL);
    for (int64_t part = 0, row = 0; part < parts; part++) {
        const int64_t count = rows / parts + (part < rows % parts);
        tiles<TALL>(static_cast<int>(count), {left.values + row * left.stride, left.stride}, panel, depth,
                    target + row * stride, stride, adds, {next + part * depth * share, share});
        row += count;
    }
}

void product(Matrix left, const Panels &right, int64_t first, int64_t last, float *target, int64_t stride,
             int64_t rows, bool adds) {
    if (rows == 0) return;
    if (right.parts || takes_matrix_unit(rows, right.count()))
        return matrix_unit::product(left, right, first, last, target, stride, rows, adds);
    for (int64_t number = first; number < last; number++) {
        const float *panel = right.values + number * right.step();
        const int64_t column = number * PANEL, width = std::min<int64_t>(PANEL, right.columns - column);
        if (width == PANEL) {
            panel_product(left, panel, right.depth, target + column, stride, rows, adds);
            continue;
        }
        for (int64_t row = 0; row < rows; row += TALL) {
            float edge[TALL * PANEL] = {};
            const int64_t count = std::min<int64_t>(TALL, rows - row);
            panel_product({left.values + row * left.stride, left.stride}, panel, right.depth, edge, PANEL, count, false);
            for (int64_t i = 0; i < count; i++)
                for (int64_t j = 0; j < width; j++) {
                    float &to = target[(row + i) * stride + column + j];
                    to = adds ? to + edge[i * PANEL + j] : edge[i * PANEL + j];
                }
        }
    }
}

int64_t row_block(int64_t rows) {
    return rows >= matrix_unit::FEWEST_ROWS && matrix_unit::is_usable() ? matrix_unit::ROWS : 8 * TALL;
}

int64_t panels_a_task(int64_t rows, const Panels &right, int64_t threads) {
    if (takes_matrix_unit(rows, right.count())) {  // each task splits its rows anew
        constexpr int64_t MOST = 16;
        const int64_t blocks = (rows + row_block(rows) - 1) / row_block(rows);
        const int64_t groups = std::max((right.count() + MOST - 1) / MOST, (threads + blocks - 1) / blocks);
        return (right.count() + groups - 1) / groups;
    }
    constexpr int64_t ENOUGH = 1 << 19;  // multiplications; reading a weight counts as some rows
    return std::max<int64_t>(1, ENOUGH / ((std::min(rows, row_block(rows)) + 16) * right.depth * PANEL));
}

void pack(const float *from, int64_t row_stride, int64_t column_stride, float *to, int64_t depth, int64_t columns) {
    for (int64_t first = 0; first < columns; first += PANEL, to += depth * PANEL) {
        const int64_t width = std::min<int64_t>(PANEL, columns - first);
        const float *own = from + first * column_stride;
        if (column_stride == 1) {
            for (int64_t k = 0; k < depth; k++) {
                std::memcpy(to + k * PANEL, own + k * row_stride, width * sizeof(float));
                std::fill(to + k * PANEL + width, to + (k + 1) * PANEL, 0.0f);
            }
            continue;
        }
        for (int64_t part = 0; part < depth; part += LANES)  // whole lines of what is read and of what is written
            for (int64_t j = 0; j < PANEL; j++)
                for (int64_t k = part; k < std::min<int64_t>(part + LANES, depth); k++)
                    to[k * PANEL + j] = j < width ? own[k * row_stride + j * column_stride] : 0.0f;
    }
}

extern "C" int64_t panel_columns() { return PANEL; }

// `count` matrices [depth, columns] by strides to panels that lie one after the other
extern "C" void pack_weight(const float *from, int64_t matrix_stride, int64_t row_stride, int64_t column_stride,
                            float *to, int64_t count, int64_t depth, int64_t columns) {
    for (int64_t matrix = 0; matrix < count; matrix++)
        pack(from + matrix * matrix_stride, row_stride, column_stride,
             to + matrix * Panels{nullptr, depth, columns}.size(), depth, columns);
}

// x [rows, in] by x_stride, weight panels of [in, out], out [rows, out] dense
extern "C" void multiply(const float *x, int64_t x_stride, const float *weight, float *out, int64_t rows, int64_t in,
                         int64_t columns, int64_t threads) {
    shared_product(threads, {x, x_stride}, {weight, in, columns}, out, columns, rows);
}
