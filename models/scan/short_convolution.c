/* Depthwise causal convolution and SiLU on CPU cores, all groups and both directions in one call. */

#include "series.h"

#define MAX_TAPS 16

/* weight: [groups, channels, taps], the last tap for the step itself. */
typedef struct {
    Series x;
    const float *weight, *bias;
    int64_t taps;
} Filter;

static inline void load_taps(const Shape *shape, const Filter *in, int64_t group, int64_t channel, lanes *taps) {
    const float *weight = in->weight + (group * shape->channels + channel) * in->taps;
    for (int64_t tap = 0; tap < in->taps; tap++)
        taps[tap] = load_strided(weight + tap, in->taps, shape->channels - channel);
}

/* window[j]: x at j - (taps - 1) steps from the current one; returns the sum before the SiLU. */
static inline lanes filter_step(lanes *window, lanes next, const lanes *taps, int64_t count, lanes bias) {
    lanes y = bias;
    for (int64_t tap = 0; tap + 1 < count; tap++) {
        window[tap] = window[tap + 1];
        y += taps[tap] * window[tap];
    }
    window[count - 1] = next;
    return y + taps[count - 1] * next;
}

void filter_forward(const Shape *shape, const Filter *in, Series out) {
    const int64_t blocks = blocks_of(shape), items = shape->batch * shape->groups * blocks;
#pragma omp parallel for schedule(dynamic, 1) num_threads(shape->threads)
    for (int64_t item = 0; item < items; item++) {
        const int64_t sample = item / blocks / shape->groups, group = item / blocks % shape->groups;
        const int64_t channel = item % blocks * LANES, count = shape->channels - channel;
        const int64_t valid = valid_steps(shape, sample);
        const lanes bias = load(in->bias + group * shape->channels + channel, count);
        lanes taps[MAX_TAPS], window[MAX_TAPS] = {};
        load_taps(shape, in, group, channel, taps);
        const Series x = located(shape, in->x, sample), own = located(shape, out, sample);
        for (int64_t step = 0; step < valid; step++) {
            const int64_t time = time_of(step, valid, shape->reverse[group]);
            const lanes next = load(at(x, sample, time, group) + channel, count);
            const lanes y = filter_step(window, next, taps, in->taps, bias);
            store(at(own, sample, time, group) + channel, y * sigmoid(y), count);
        }
        clear_padding(shape, out, sample, group, channel, count);
    }
}

/* dweight: [batch, groups, channels, taps], dbias: [batch, groups, channels], to be summed over batch. */
void filter_backward(const Shape *shape, const Filter *in, Series dout, Series dx, float *dweight, float *dbias) {
    const int64_t blocks = blocks_of(shape), items = shape->batch * shape->groups * blocks, last = in->taps - 1;
#pragma omp parallel for schedule(dynamic, 1) num_threads(shape->threads)
    for (int64_t item = 0; item < items; item++) {
        const int64_t sample = item / blocks / shape->groups, group = item / blocks % shape->groups;
        const int64_t channel = item % blocks * LANES, count = shape->channels - channel;
        const int64_t valid = valid_steps(shape, sample);
        const lanes bias = load(in->bias + group * shape->channels + channel, count);
        lanes taps[MAX_TAPS], window[MAX_TAPS] = {}, due[MAX_TAPS] = {}, dtaps[MAX_TAPS] = {}, total = {};
        load_taps(shape, in, group, channel, taps);
        const Series x = located(shape, in->x, sample);
        const Series dy_of = located(shape, dout, sample), dx_of = located(shape, dx, sample);
        /* due[j]: gradient of x at j - last steps from the current one, complete once it leaves the window. */
        for (int64_t step = 0; step < valid + last; step++) {
            for (int64_t tap = 0; tap < last; tap++) due[tap] = due[tap + 1];
            due[last] = (lanes){};
            if (step < valid) {
                const int64_t time = time_of(step, valid, shape->reverse[group]);
                const lanes next = load(at(x, sample, time, group) + channel, count);
                const lanes y = filter_step(window, next, taps, in->taps, bias), s = sigmoid(y);
                const lanes dy = load(at(dy_of, sample, time, group) + channel, count) * s * (1.0f + y * (1.0f - s));
                for (int64_t tap = 0; tap <= last; tap++) {
                    due[tap] += taps[tap] * dy;
                    dtaps[tap] += window[tap] * dy;
                }
                total += dy;
            }
            if (step >= last)
                store(at(dx_of, sample, time_of(step - last, valid, shape->reverse[group]), group) + channel, due[0], count);
        }
        const int64_t place = (sample * shape->groups + group) * shape->channels + channel;
        for (int64_t tap = 0; tap <= last; tap++)
            store_strided(dweight + place * in->taps + tap, dtaps[tap], in->taps, count);
        store(dbias + place, total, count);
    }
}
