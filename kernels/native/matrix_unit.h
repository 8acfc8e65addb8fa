// Products of float32 on the processor's matrix unit (AMX), which multiplies bfloat16 and adds in float32.

#pragma once

#include "product.h"

namespace matrix_unit {

constexpr int64_t ROWS = 128;        // of a block, whose parts stay in the second-level cache
constexpr int64_t FEWEST_ROWS = 64;  // below it, splitting panels takes longer than what is saved

// Pairs of bfloat16 that the parts of some panels take, and the making of them, for panels that many products read.
int64_t parts_size(const Panels &right);
void split(const Panels &right, uint32_t *to);  // `to` is the start of a cache line

// Whether this processor has one, the kernel lets this process use it, and nobody switched it off.
bool is_usable();

// As `product` of `product.h`.
void product(Matrix left, const Panels &right, int64_t first, int64_t last, float *target, int64_t stride,
             int64_t rows, bool adds);

}  // namespace matrix_unit
