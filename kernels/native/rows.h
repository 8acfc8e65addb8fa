// What is done to a row by itself, for whoever holds one.

#pragma once

#include "vectors.h"

INLINE void normalise(const float *x, const float *weight, float *out, int64_t width, float eps) {
    const float factor = 1.0f / std::sqrt(squares(x, width) / static_cast<float>(width) + eps);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * factor * weight[i];
}

// Turns pairs that lie side by side; turns [pairs] complex.
INLINE void turn_interleaved(float *row, const float *turns, int64_t pairs) {
    for (int64_t p = 0; p < pairs; p++) {
        const float a = row[2 * p], b = row[2 * p + 1], c = turns[2 * p], s = turns[2 * p + 1];
        row[2 * p] = a * c - b * s;
        row[2 * p + 1] = a * s + b * c;
    }
}

// Turns value p with value p + pairs.
INLINE void turn_halves(float *first, const float *turns, int64_t pairs) {
    float *second = first + pairs;
    for (int64_t p = 0; p < pairs; p++) {
        const float a = first[p], b = second[p], c = turns[2 * p], s = turns[2 * p + 1];
        first[p] = a * c - b * s;
        second[p] = a * s + b * c;
    }
}

// silu(gate) * up of one row: gate in the first half of the columns
INLINE void silu_row(const float *gate_up, float *out, int64_t width) {
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        const Floats gate = load(gate_up + i);
        store(out + i, gate / (1.0f + exponential(-gate)) * load(gate_up + width + i));
    }
    for (; i < width; i++) out[i] = gate_up[i] / (1.0f + std::exp(-gate_up[i])) * gate_up[width + i];
}
