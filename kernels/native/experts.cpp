// The experts' gated MLPs of routed tokens: rows are gathered by expert, and weighted sums made of what comes.

#include <algorithm>
#include <memory>
#include <vector>

#include "product.h"
#include "rows.h"

namespace {

constexpr int64_t ROWS = 96;  // of an expert at a time, so that cores share a prompt's

struct Run {
    int64_t expert, first, count;  // pairs [first, first + count) of those in order
};

}  // namespace

// One gated MLP of a few rows: x and out [rows, hidden] dense, gate_up [hidden, 2 * width], down [width, hidden]
extern "C" void gated_mlp(const float *x, int64_t rows, const float *gate_up, const float *down, int64_t hidden,
                          int64_t width, float *out, int64_t threads) {
    const std::unique_ptr<float[]> room(new float[rows * 3 * width]);
    float *wide = room.get(), *narrow = wide + rows * 2 * width;
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        shared_product(x, hidden, {gate_up, hidden, 2 * width}, wide, rows, threads);
#pragma omp for
        for (int64_t row = 0; row < rows; row++) silu_row(wide + row * 2 * width, narrow + row * width, width);
        shared_product(narrow, width, {down, width, hidden}, out, rows, threads);
    }
}

// x [tokens, hidden] by x_stride; ids and weights [tokens, top_k] dense, ids outside [0, experts) add nothing;
// gate_up [experts, hidden, 2 * width], down [experts, width, hidden]; out [tokens, hidden] dense
extern "C" void routed_experts(const float *x, int64_t x_stride, const int64_t *ids, int64_t first_id,
                               const float *weights, int64_t tokens, int64_t top_k, int64_t experts,
                               const float *gate_up, const float *down, int64_t hidden, int64_t width, float *out,
                               int64_t threads) {
    const int64_t pairs = tokens * top_k;
    std::vector<int64_t> starts(experts + 1), order(pairs), places(pairs, -1);
    for (int64_t pair = 0; pair < pairs; pair++) {
        const int64_t expert = ids[pair] - first_id;
        if (expert >= 0 && expert < experts) starts[expert + 1]++;
    }
    std::vector<Run> runs;
    for (int64_t expert = 0; expert < experts; expert++) {
        for (int64_t done = 0; done < starts[expert + 1]; done += ROWS)
            runs.push_back({expert, starts[expert] + done, std::min(ROWS, starts[expert + 1] - done)});
        starts[expert + 1] += starts[expert];
    }
    std::vector<int64_t> next(starts.begin(), starts.end() - 1);
    for (int64_t pair = 0; pair < pairs; pair++) {
        const int64_t expert = ids[pair] - first_id;
        if (expert < 0 || expert >= experts) continue;
        places[pair] = next[expert]++;
        order[places[pair]] = pair;
    }
    const std::unique_ptr<float[]> outputs(new float[starts[experts] * hidden + 1]);
    const int64_t most = std::min(ROWS, pairs);
#pragma omp parallel num_threads(static_cast<int>(threads)) if (threads > 1)
    {
        const std::unique_ptr<float[]> room(new float[most * (hidden + 3 * width) + 1]);
        float *gathered = room.get(), *wide = gathered + most * hidden, *narrow = wide + most * 2 * width;
#pragma omp for schedule(dynamic)
        for (size_t number = 0; number < runs.size(); number++) {
            const Run run = runs[number];
            for (int64_t i = 0; i < run.count; i++)
                std::memcpy(gathered + i * hidden, x + order[run.first + i] / top_k * x_stride,
                            hidden * sizeof(float));
            product({gathered, hidden}, {gate_up + run.expert * hidden * 2 * width, 2 * width}, wide, 2 * width,
                    run.count, 2 * width, hidden, false);
            for (int64_t i = 0; i < run.count; i++) silu_row(wide + i * 2 * width, narrow + i * width, width);
            product({narrow, width}, {down + run.expert * width * hidden, hidden},
                    outputs.get() + run.first * hidden, hidden, run.count, hidden, width, false);
        }
#pragma omp for
        for (int64_t token = 0; token < tokens; token++) {
            float *total = out + token * hidden;
            std::fill(total, total + hidden, 0.0f);
            for (int64_t pair = token * top_k; pair < (token + 1) * top_k; pair++) {
                if (places[pair] < 0) continue;
                const float *from = outputs.get() + places[pair] * hidden;
                for (int64_t i = 0; i < hidden; i++) total[i] += weights[pair] * from[i];
            }
        }
    }
}
