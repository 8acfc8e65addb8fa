// `product.h`: tiles that stay in registers while a weight passes by.

#include "product.h"

// target[ROWS, VECTORS * LANES] = (or += where `adds`) left[ROWS, depth] @ right[depth, VECTORS * LANES]
template <int ROWS, int VECTORS>
INLINE void tile(Matrix left, Matrix right, float *target, int64_t stride, int64_t depth, bool adds) {
    Floats sums[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) sums[i][j] = adds ? load(target + i * stride + j * LANES) : Floats{};
    for (int64_t k = 0; k < depth; k++) {
        Floats row[VECTORS];
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) row[j] = load(right.values + k * right.stride + j * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
            for (int j = 0; j < VECTORS; j++) sums[i][j] += left.values[i * left.stride + k] * row[j];
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS; j++) store(target + i * stride + j * LANES, sums[i][j]);
}

template <int VECTORS>
static void tiles(int rows, Matrix left, Matrix right, float *target, int64_t stride, int64_t depth, bool adds) {
    switch (rows) {
        case 1: return tile<1, VECTORS>(left, right, target, stride, depth, adds);
        case 2: return tile<2, VECTORS>(left, right, target, stride, depth, adds);
        case 3: return tile<3, VECTORS>(left, right, target, stride, depth, adds);
        case 4: return tile<4, VECTORS>(left, right, target, stride, depth, adds);
        case 5: return tile<5, VECTORS>(left, right, target, stride, depth, adds);
        default: return tile<TALL, VECTORS>(left, right, target, stride, depth, adds);
    }
}

// One row: the weight is read once, row after row, and the sums stay in the first-level cache.
static void row_product(const float *left, Matrix right, float *target, int64_t columns, int64_t depth, bool adds) {
    if (!adds) std::memset(target, 0, columns * sizeof(float));
    const int64_t whole = columns / LANES * LANES;
    int64_t k = 0;
    for (; k + 4 <= depth; k += 4) {
        const float *rows = right.values + k * right.stride;
        const int64_t next = right.stride;
        const float a = left[k], b = left[k + 1], c = left[k + 2], d = left[k + 3];
        for (int64_t j = 0; j < whole; j += LANES)
            store(target + j, load(target + j) + (a * load(rows + j) + b * load(rows + next + j)) +
                                  (c * load(rows + 2 * next + j) + d * load(rows + 3 * next + j)));
        for (int64_t j = whole; j < columns; j++)
            target[j] += a * rows[j] + b * rows[next + j] + c * rows[2 * next + j] + d * rows[3 * next + j];
    }
    for (; k < depth; k++)
        for (int64_t j = 0; j < columns; j++) target[j] += left[k] * right.values[k * right.stride + j];
}

void product(Matrix left, Matrix right, float *target, int64_t stride, int64_t rows, int64_t columns, int64_t depth,
             bool adds) {
    if (rows == 1) return row_product(left.values, right, target, columns, depth, adds);
    const int64_t parts = (rows + TALL - 1) / TALL, height = parts ? (rows + parts - 1) / parts : 0;
    int64_t j = 0;
    while (j + LANES <= columns) {
        const bool is_wide = j + WIDE * LANES <= columns;
        for (int64_t i = 0; i < rows; i += height) {
            const int count = static_cast<int>(std::min(height, rows - i));
            const Matrix own{left.values + i * left.stride, left.stride}, panel{right.values + j, right.stride};
            float *to = target + i * stride + j;
            if (is_wide)
                tiles<WIDE>(count, own, panel, to, stride, depth, adds);
            else
                tiles<1>(count, own, panel, to, stride, depth, adds);
        }
        j += is_wide ? WIDE * LANES : LANES;
    }
    for (; j < columns; j++)
        for (int64_t i = 0; i < rows; i++) {
            float total = adds ? target[i * stride + j] : 0.0f;
            for (int64_t k = 0; k < depth; k++)
                total += left.values[i * left.stride + k] * right.values[k * right.stride + j];
            target[i * stride + j] = total;
        }
}
