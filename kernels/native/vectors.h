// Vectors of float32 in the compiler's own notation, so that one source serves AVX-512, AVX2 and what has neither.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
constexpr int LANES = 16;
constexpr int TALL = 12;  // rows of a tile of a product: with WIDE vectors they fill the registers
#else
constexpr int LANES = 8;
constexpr int TALL = 6;
#endif
constexpr int WIDE = 2;

typedef float Floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

INLINE Floats load(const float *from) { return *reinterpret_cast<const Floats *>(from); }
INLINE void store(float *to, Floats values) { *reinterpret_cast<Floats *>(to) = values; }
INLINE Floats all(float value) { return value - Floats{}; }

// By halves: one lane after the other would take longer than what is summed.
INLINE float sum(Floats values) {
    typedef float Four __attribute__((vector_size(16)));
    Four parts[LANES / 4];
    std::memcpy(parts, &values, sizeof values);
    for (int step = LANES / 8; step; step /= 2)
        for (int i = 0; i < step; i++) parts[i] += parts[i + step];
    return (parts[0][0] + parts[0][1]) + (parts[0][2] + parts[0][3]);
}

// e to the power of values from -87, where float32 ends, to 88. Cephes' polynomial, right to two units in the last
// place; NaN stays NaN.
INLINE Floats power_of_e(Floats x) {
    constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: the low bits of a sum with it are the nearest whole number
    const Floats shifted = x * 1.44269504f + MAGIC, whole = shifted - MAGIC;
    const Floats rest = x - whole * 0.693359375f - whole * -2.12194440e-4f;
    Floats series = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    series = series * rest + 8.3334519073e-3f;
    series = series * rest + 4.1665795894e-2f;
    series = series * rest + 1.6666665459e-1f;
    series = series * rest + 5.0000001201e-1f;
    const Floats value = series * (rest * rest) + (rest + 1.0f);
    const Ints scaled = reinterpret_cast<const Ints &>(value) + (reinterpret_cast<const Ints &>(shifted) << 23);
    return reinterpret_cast<const Floats &>(scaled);
}

// e to the power of values up to 88; 0 below -87.
INLINE Floats exponential_up_to_88(Floats x) {
    const Floats value = power_of_e(x < -87.0f ? all(-87.0f) : x);
    return x < -87.0f ? Floats{} : value;
}

// e to the power of each value; 0 below -87, and above 88 as of 88.
INLINE Floats exponential(Floats x) { return exponential_up_to_88(x > 88.0f ? all(88.0f) : x); }

INLINE float squares(const float *x, int64_t width) {
    Floats many = {};
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) many += load(x + i) * load(x + i);
    float total = sum(many);
    for (; i < width; i++) total += x[i] * x[i];
    return total;
}

INLINE void scale(float *x, float factor, int64_t width) {
    for (int64_t i = 0; i < width; i++) x[i] *= factor;
}
