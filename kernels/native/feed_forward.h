// The feed-forward half of a layer, and the norm beside it.

#pragma once

#include <cstdint>

// Weights are panels; biases are not.
struct FeedForward {
    const float *gate_up, *down;  // of one MLP for all tokens, or of all experts one after the other
    const float *router;          // null: one MLP
    const float *bias;            // of sigmoid scores; null: softmax
    const float *shared_gate_up, *shared_down;  // null without shared experts
    int64_t width, experts, top_k, groups, top_groups, normalises, shared_width;
    double scale;
};

// residual += x, out = norm of the sum; all [rows, width] and dense, x and out may be one
extern "C" void add_rms_norm(const float *x, float *residual, const float *weight, float *out, int64_t rows,
                             int64_t width, float eps, int64_t threads);

extern "C" void route(const float *logits, const float *bias, float *weights, int64_t *ids, int64_t tokens,
                      int64_t experts, int64_t top_k, int64_t groups, int64_t top_groups, int64_t normalises,
                      float factor, int64_t threads);

// x and out [rows, hidden] dense
void feed_forward(const FeedForward &mlp, const float *x, int64_t rows, int64_t hidden, float *out, int64_t threads);
