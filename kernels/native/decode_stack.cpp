// All layers of a decode step in one call: between them nothing is asked of Python, and threads that help find the
// next operation while they still look for it.

#include <algorithm>
#include <memory>
#include <vector>

#include "decode_layers.h"
#include "feed_forward.h"

namespace {

struct Layer {
    const MlaLayer *mla;  // one of the two, null the other
    const GqaLayer *gqa;
    const float *mlp_norm, *next_norm;
    FeedForward mlp;
};

struct Pool {
    float *values;
    int64_t layer_stride, block_stride, block_tokens;
};

}  // namespace

// token_rows: of layer 0 in `step`, those of a layer `row_stride` apart. x and stream [batch, hidden] dense; x is
// the first layer's normalised input, and then that of what follows the last one.
extern "C" void decode_stack(const Layer *layers, int64_t count, const Step *step, int64_t row_stride,
                             const Pool *pool, float *x, float *stream, int64_t hidden, double eps) {
    const std::unique_ptr<float[]> room(new float[step->batch * hidden]);
    float *out = room.get();
    const float small = static_cast<float>(eps);
    Step own = *step;
    for (int64_t index = 0; index < count; index++, own.token_rows += row_stride) {
        const Layer &layer = layers[index];
        float *place = pool->values + index * pool->layer_stride;
        if (layer.mla)
            mla_decode_layer(layer.mla, &own, x, pool->values, place, pool->block_stride, pool->block_tokens, out);
        else
            gqa_decode_layer(layer.gqa, &own, x, pool->values, place, pool->block_stride, pool->block_tokens, out);
        add_rms_norm(out, stream, layer.mlp_norm, x, own.batch, hidden, small, own.threads);
        feed_forward(layer.mlp, x, own.batch, hidden, out, own.threads);
        add_rms_norm(out, stream, layer.next_norm, x, own.batch, hidden, small, own.threads);
    }
}
