// The experts' gated MLPs of routed tokens: rows are gathered by expert, and weighted sums made of what comes.

#include <algorithm>
#include <memory>
#include <vector>

#include "feed_forward.h"
#include "product.h"
#include "rows.h"

namespace {

struct Run {
    int64_t expert, first, count;  // pairs [first, first + count) of those in order
};

// Pairs of token and expert, by expert. A pair of no expert here has place -1.
struct Order {
    std::vector<int64_t> pairs, places;
    std::vector<Run> runs;

    // Runs of at most `most` pairs.
    Order(const int64_t *ids, int64_t first_id, int64_t count, int64_t experts, int64_t most)
        : pairs(count), places(count, -1) {
        std::vector<int64_t> starts(experts + 1);
        for (int64_t pair = 0; pair < count; pair++) {
            const int64_t expert = ids[pair] - first_id;
            if (expert >= 0 && expert < experts) starts[expert + 1]++;
        }
        for (int64_t expert = 0; expert < experts; expert++) {
            for (int64_t done = 0; done < starts[expert + 1]; done += most)
                runs.push_back({expert, starts[expert] + done, std::min(most, starts[expert + 1] - done)});
            starts[expert + 1] += starts[expert];
        }
        for (int64_t pair = 0; pair < count; pair++) {
            const int64_t expert = ids[pair] - first_id;
            if (expert < 0 || expert >= experts) continue;
            places[pair] = starts[expert]++;
            pairs[places[pair]] = pair;
        }
    }
};

// down(silu(gate(x)) * up(x)) of a block of rows; room for [rows, 3 * width]
void block_mlp(Matrix x, const Panels &gate_up, const Panels &down, int64_t rows, float *room, float *out) {
    const int64_t width = down.depth;
    float *narrow = room + rows * 2 * width;
    product(x, gate_up, room, 2 * width, rows);
    for (int64_t row = 0; row < rows; row++) silu_row(room + row * 2 * width, narrow + row * width, width);
    product({narrow, width}, down, out, down.columns, rows);
}

}  // namespace

// One gated MLP: x and out [rows, hidden] dense, gate_up panels of [hidden, 2 * width], down of [width, hidden]
extern "C" void gated_mlp(const float *x, int64_t rows, const float *gate_up, const float *down, int64_t hidden,
                          int64_t width, float *out, int64_t threads) {
    const Panels up{gate_up, hidden, 2 * width}, back{down, width, hidden};
    const int64_t most = row_block(rows);
    if (rows > most) {  // what is between the products never leaves the core
        const std::unique_ptr<float[]> room(new float[threads * most * 3 * width]);
        team::share(threads, (rows + most - 1) / most, [&](int64_t task, int64_t worker) {
            const int64_t first = task * most;
            block_mlp({x + first * hidden, hidden}, up, back, std::min(most, rows - first),
                      room.get() + worker * most * 3 * width, out + first * hidden);
        });
        return;
    }
    const std::unique_ptr<float[]> room(new float[rows * 3 * width]);
    float *wide = room.get(), *narrow = wide + rows * 2 * width;
    shared_product(threads, {x, hidden}, up, wide, 2 * width, rows);
    for (int64_t row = 0; row < rows; row++) silu_row(wide + row * 2 * width, narrow + row * width, width);
    shared_product(threads, {narrow, width}, back, out, hidden, rows);
}

// x [tokens, hidden] by x_stride; ids and weights [tokens, top_k] dense, ids outside [0, experts) add nothing;
// gate_up and down: the experts' panels one after the other; out [tokens, hidden] dense
extern "C" void routed_experts(const float *x, int64_t x_stride, const int64_t *ids, int64_t first_id,
                               const float *weights, int64_t tokens, int64_t top_k, int64_t experts,
                               const float *gate_up, const float *down, int64_t hidden, int64_t width, float *out,
                               int64_t threads) {
    const int64_t pairs = tokens * top_k, most = std::min(row_block(pairs), pairs);
    const Order order(ids, first_id, pairs, experts, most);
    const int64_t needed = most * (hidden + 3 * width);
    const std::unique_ptr<float[]> outputs(new float[pairs * hidden + 1]);
    const std::unique_ptr<float[]> room(new float[threads * needed + 1]);
    const Panels up{gate_up, hidden, 2 * width}, back{down, width, hidden};
    team::share(threads, order.runs.size(), [&](int64_t number, int64_t worker) {
        const Run run = order.runs[number];
        float *gathered = room.get() + worker * needed;
        for (int64_t i = 0; i < run.count; i++)
            std::memcpy(gathered + i * hidden, x + order.pairs[run.first + i] / top_k * x_stride,
                        hidden * sizeof(float));
        block_mlp({gathered, hidden}, {gate_up + run.expert * up.size(), hidden, 2 * width},
                  {down + run.expert * back.size(), width, hidden}, run.count, gathered + most * hidden,
                  outputs.get() + run.first * hidden);
    });
    team::share_runs(threads, tokens, 64, [&](int64_t first, int64_t last) {
        for (int64_t token = first; token < last; token++) {
            float *total = out + token * hidden;
            std::fill(total, total + hidden, 0.0f);
            for (int64_t pair = token * top_k; pair < (token + 1) * top_k; pair++) {
                if (order.places[pair] < 0) continue;
                const float *from = outputs.get() + order.places[pair] * hidden;
                for (int64_t i = 0; i < hidden; i++) total[i] += weights[pair] * from[i];
            }
        }
    });
}

void feed_forward(const FeedForward &mlp, const float *x, int64_t rows, int64_t hidden, float *out, int64_t threads) {
    if (!mlp.router) return gated_mlp(x, rows, mlp.gate_up, mlp.down, hidden, mlp.width, out, threads);
    const std::unique_ptr<float[]> room(new float[rows * (mlp.experts + mlp.top_k + hidden)]);
    const std::unique_ptr<int64_t[]> ids(new int64_t[rows * mlp.top_k]);
    float *logits = room.get(), *weights = logits + rows * mlp.experts, *shared = weights + rows * mlp.top_k;
    shared_product(threads, {x, hidden}, {mlp.router, hidden, mlp.experts}, logits, mlp.experts, rows);
    route(logits, mlp.bias, weights, ids.get(), rows, mlp.experts, mlp.top_k, mlp.groups, mlp.top_groups,
          mlp.normalises, static_cast<float>(mlp.scale), threads);
    routed_experts(x, hidden, ids.get(), 0, weights, rows, mlp.top_k, mlp.experts, mlp.gate_up, mlp.down, hidden,
                   mlp.width, out, threads);
    if (!mlp.shared_gate_up) return;
    gated_mlp(x, rows, mlp.shared_gate_up, mlp.shared_down, hidden, mlp.shared_width, shared, threads);
    for (int64_t i = 0; i < rows * hidden; i++) out[i] += shared[i];
}
