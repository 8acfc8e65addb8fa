// Matrix products of float32 with weights that were packed once.

#pragma once

#include <algorithm>

#include "team.h"
#include "vectors.h"

constexpr int PANEL = WIDE * LANES;

struct Matrix {
    const float *values;
    int64_t stride;  // from row to row
};

// [depth, columns] as panels of PANEL columns, each [depth, PANEL] side by side; the last is filled up with zeros.
struct Panels {
    const float *values;
    int64_t depth, columns;
    int64_t held = 0;                 // rows that a panel has, of which the first `depth` count; 0: as many
    const uint32_t *parts = nullptr;  // of the values, where `matrix_unit.h` has split them before

    int64_t count() const { return (columns + PANEL - 1) / PANEL; }
    int64_t rows() const { return held ? held : depth; }
    int64_t step() const { return rows() * PANEL; }  // from panel to panel
    int64_t size() const { return count() * step(); }
};

// Makes panels of rows `row_stride` and columns `column_stride` values apart.
void pack(const float *from, int64_t row_stride, int64_t column_stride, float *to, int64_t depth, int64_t columns);

// target[rows, columns of the panels [first, last)] = (or += where `adds`) left[rows, depth] @ right; `target` is
// where column 0 lies
void product(Matrix left, const Panels &right, int64_t first, int64_t last, float *target, int64_t stride,
             int64_t rows, bool adds);

inline void product(Matrix left, const Panels &right, float *target, int64_t stride, int64_t rows, bool adds = false) {
    product(left, right, 0, right.count(), target, stride, rows, adds);
}

// Rows of a task of many: as many as stay in the second-level cache with what is made of them.
int64_t row_block(int64_t rows);

// Panels of a task: enough to be worth taking, few enough that threads end together.
int64_t panels_a_task(int64_t rows, const Panels &right, int64_t threads);

// The whole product, shared out.
inline void shared_product(int64_t threads, Matrix left, const Panels &right, float *target, int64_t stride,
                           int64_t rows) {
    const int64_t size = panels_a_task(rows, right, threads), groups = (right.count() + size - 1) / size;
    const int64_t most = row_block(rows), blocks = (rows + most - 1) / most;
    team::share(threads, groups * blocks, [&](int64_t task, int64_t) {
        const int64_t first = task / groups * most, panel = task % groups * size;
        product({left.values + first * left.stride, left.stride}, right, panel, std::min(panel + size, right.count()),
                target + first * stride, stride, std::min(most, rows - first), false);
    });
}
