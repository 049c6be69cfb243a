/* Vectors of eight channels, and series of them: [batch, time, groups, channels] with strides.
 *
 * Eight neighbouring channels of a group go through time together, one in each lane of a vector. Only the first
 * lengths[sample] steps of a sample are touched, counted from the first token in either direction; a reversed group
 * starts at the last of them. Packed samples lie end to end in one series; each is gone through on its own, as if it
 * were one of a batch. Work is shared out in pieces that do not depend on the number of threads, and neither do
 * the results.
 */

#ifndef SERIES_H
#define SERIES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8

typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef int32_t bits __attribute__((vector_size(4 * LANES)));

/* [batch, time, group, feature]: strides in floats, features next to each other. */
typedef struct {
    float *data;
    int64_t batch, time, group;
} Series;

typedef struct {
    int64_t batch, time, groups, channels, states;
    const int64_t *lengths; /* [batch], NULL: all steps */
    const int64_t *offsets; /* [batch + 1], first step of each packed sample and the end; NULL: not packed */
    const uint8_t *reverse; /* [groups] */
    int64_t softplus;
    int64_t threads;
} Shape;

static inline lanes choose(bits mask, lanes yes, lanes no) {
    return (lanes)((mask & (bits)yes) | (~mask & (bits)no));
}

/* 2^x for x in [-126, 126] (beyond: the value at the end), relative error below 2e-7 by a minimax polynomial of degree 6.
 * NaN stays NaN. */
static inline lanes power_of_two(lanes x) {
    const lanes low = (lanes){} - 126.0f, high = (lanes){} + 126.0f;
    x = choose(x < low, low, x);
    x = choose(x > high, high, x);
    const lanes shifted = x + 12582912.0f; /* 1.5 * 2^23: rounds to an integer in the low bits */
    const lanes f = x - (shifted - 12582912.0f);
    lanes p = f * 1.5353362e-4f + 1.3398874e-3f;
    p = p * f + 9.6184373e-3f;
    p = p * f + 5.5503324e-2f;
    p = p * f + 2.4022648e-1f;
    p = p * f + 6.9314720e-1f;
    p = p * f + 1.0f;
    return p * (lanes)(((bits)shifted << 23) + (127 << 23));
}

static inline lanes exponential(lanes x) { return power_of_two(x * 1.44269504f); }

static inline lanes sigmoid(lanes x) { return 1.0f / (exponential(-x) + 1.0f); }

static inline lanes load(const float *from, int64_t count) {
    lanes value = {};
    if (count >= LANES) memcpy(&value, from, sizeof value);
    else memcpy(&value, from, count * sizeof(float));
    return value;
}

static inline void store(float *to, lanes value, int64_t count) {
    if (count >= LANES) memcpy(to, &value, sizeof value);
    else memcpy(to, &value, count * sizeof(float));
}

static inline lanes load_strided(const float *from, int64_t stride, int64_t count) {
    lanes value = {};
    for (int64_t lane = 0; lane < LANES && lane < count; lane++) value[lane] = from[lane * stride];
    return value;
}

static inline void store_strided(float *to, lanes value, int64_t stride, int64_t count) {
    for (int64_t lane = 0; lane < LANES && lane < count; lane++) to[lane * stride] = value[lane];
}

static inline float *at(Series series, int64_t sample, int64_t step, int64_t group) {
    return series.data + sample * series.batch + step * series.time + group * series.group;
}

/* The series as that of one sample: what its steps are counted from. */
static inline Series located(const Shape *shape, Series series, int64_t sample) {
    if (shape->offsets && series.data) {
        series.data += shape->offsets[sample] * series.time;
        series.batch = 0;
    }
    return series;
}

static inline int64_t valid_steps(const Shape *shape, int64_t sample) {
    if (shape->offsets) return shape->offsets[sample + 1] - shape->offsets[sample];
    return shape->lengths ? shape->lengths[sample] : shape->time;
}

static inline int64_t blocks_of(const Shape *shape) { return (shape->channels + LANES - 1) / LANES; }

/* Where the scan's index-th step lies in time. */
static inline int64_t time_of(int64_t index, int64_t valid, int reversed) { return reversed ? valid - 1 - index : index; }

static inline void clear_padding(const Shape *shape, Series series, int64_t sample, int64_t group, int64_t channel,
                                 int64_t count) {
    if (shape->offsets) return;
    for (int64_t step = valid_steps(shape, sample); step < shape->time; step++)
        store(at(series, sample, step, group) + channel, (lanes){}, count);
}

#endif
