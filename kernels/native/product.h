// Matrix products of float32 for the shapes of a decode step: few rows, weights [in, out] as they lie.

#pragma once

#include <algorithm>

#include "vectors.h"

struct Matrix {
    const float *values;
    int64_t stride;  // from row to row
};

// target[rows, columns] = (or += where `adds`) left[rows, depth] @ right[depth, columns]
void product(Matrix left, Matrix right, float *target, int64_t stride, int64_t rows, int64_t columns, int64_t depth,
             bool adds);

struct Weight {
    const float *values;  // [in, out] dense
    int64_t in, out;
};

// target[rows, columns] = left @ right, columns shared out to the threads of the region that calls it
inline void shared_product(Matrix left, Matrix right, float *target, int64_t stride, int64_t rows, int64_t columns,
                    int64_t depth, int64_t threads) {
    const int64_t panel = WIDE * LANES, panels = (columns + panel - 1) / panel;
    const int64_t width = (panels + threads - 1) / threads * panel;
#pragma omp for
    for (int64_t first = 0; first < columns; first += width)
        product(left, {right.values + first, right.stride}, target + first, stride, rows,
                std::min(width, columns - first), depth, false);
}

inline void shared_product(const float *left, int64_t left_stride, const Weight &weight, float *target, int64_t rows,
                    int64_t threads) {
    shared_product({left, left_stride}, {weight.values, weight.out}, target, weight.out, rows, weight.out, weight.in,
                   threads);
}
