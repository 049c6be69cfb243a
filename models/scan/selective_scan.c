/* Selective scan of Mamba on CPU cores, one pass over time, all groups and both directions in one call.
 *
 * The states of a block of channels stay in registers. The forward pass keeps them at the starts of chunks; the backward
 * pass takes the chunks from the last to the first, runs each again from its start and then goes back through it. Memory
 * is linear in the length.
 */

#include "series.h"

#define CHUNK 32

/* Chunks of all samples before this one: each has room for its own and at most one more. */
static inline int64_t first_chunk(const Shape *shape, int64_t sample) {
    if (shape->offsets) return shape->offsets[sample] / CHUNK + sample;
    return sample * ((shape->time + CHUNK - 1) / CHUNK);
}

/* log(1 + e^x) = max(x, 0) + log1p(e^-|x|), with log1p(y) = 2 atanh(y / (2 + y)) as a series. */
static inline lanes softplus(lanes x) {
    const lanes zero = {};
    const lanes positive = choose(x > zero, x, zero);
    const lanes y = exponential(choose(x > zero, -x, x));
    const lanes s = y / (y + 2.0f), q = s * s;
    lanes p = q * (1.0f / 15) + 1.0f / 13;
    p = p * q + 1.0f / 11;
    p = p * q + 1.0f / 9;
    p = p * q + 1.0f / 7;
    p = p * q + 1.0f / 5;
    p = p * q + 1.0f / 3;
    p = p * q + 1.0f;
    return positive + 2.0f * s * p;
}

static inline float sum(lanes value) {
    float total = 0;
    for (int lane = 0; lane < LANES; lane++) total += value[lane];
    return total;
}

int64_t scan_start_floats(const Shape *shape) {
    return first_chunk(shape, shape->batch) * shape->groups * blocks_of(shape) * shape->states * LANES;
}

/* Where the states of a block of channels lie at the starts of chunks: [chunks, states, LANES]. */
static inline int64_t start_place(const Shape *shape, int64_t sample, int64_t group, int64_t block) {
    const int64_t first = first_chunk(shape, sample), count = first_chunk(shape, sample + 1) - first;
    const int64_t blocks = blocks_of(shape);
    return (first * shape->groups * blocks + (group * blocks + block) * count) * shape->states * LANES;
}

typedef struct {
    Series u, delta, z, B, C; /* z.data NULL: no gate */
    const float *A, *D, *bias; /* [groups, channels, states], [groups, channels]; bias NULL: none */
} Operands;

static inline Operands operands_of(const Shape *shape, const Operands *in, int64_t sample) {
    Operands own = *in;
    own.u = located(shape, in->u, sample), own.delta = located(shape, in->delta, sample);
    own.z = located(shape, in->z, sample), own.B = located(shape, in->B, sample), own.C = located(shape, in->C, sample);
    return own;
}

/* Constants of one block of channels. */
typedef struct {
    int64_t sample, group, channel, count, valid;
    int reversed;
    lanes skip, bias;
} Block;

static inline Block block_at(const Shape *shape, const Operands *in, int64_t sample, int64_t group, int64_t block) {
    const int64_t channel = block * LANES;
    const int64_t place = group * shape->channels + channel;
    const int64_t count = shape->channels - channel;
    return (Block){
        .sample = sample,
        .group = group,
        .channel = channel,
        .count = count,
        .valid = valid_steps(shape, sample),
        .reversed = shape->reverse[group],
        .skip = load(in->D + place, count),
        .bias = in->bias ? load(in->bias + place, count) : (lanes){},
    };
}

static inline lanes step_size(const Shape *shape, const Operands *in, const Block *block, int64_t time) {
    const lanes raw = load(at(in->delta, block->sample, time, block->group) + block->channel, block->count) + block->bias;
    return shape->softplus ? softplus(raw) : raw;
}

/* log2(e) * A of a block, so that exp(d A) is one power of two. */
static inline void load_rates(const Shape *shape, const Operands *in, const Block *block, lanes *rates, int states) {
    const float *A = in->A + (block->group * shape->channels + block->channel) * states;
    for (int n = 0; n < states; n++) rates[n] = load_strided(A + n, states, block->count) * 1.44269504f;
}

static inline __attribute__((always_inline)) void forward_block(const Shape *shape, const Operands *all, Series out,
                                                                float *starts, int64_t sample, int64_t group,
                                                                int64_t index, int states) {
    const Operands own = operands_of(shape, all, sample), *in = &own;
    out = located(shape, out, sample);
    const Block block = block_at(shape, in, sample, group, index);
    lanes rates[states], h[states];
    load_rates(shape, in, &block, rates, states);
    for (int n = 0; n < states; n++) h[n] = (lanes){};
    for (int64_t step = 0; step < block.valid; step++) {
        if (starts && step % CHUNK == 0) memcpy(starts + step / CHUNK * states * LANES, h, sizeof h);
        const int64_t time = time_of(step, block.valid, block.reversed);
        const lanes d = step_size(shape, in, &block, time);
        const lanes u = load(at(in->u, sample, time, group) + block.channel, block.count);
        const float *B = at(in->B, sample, time, group), *C = at(in->C, sample, time, group);
        const lanes driven = d * u;
        lanes y = block.skip * u;
        for (int n = 0; n < states; n++) {
            h[n] = power_of_two(d * rates[n]) * h[n] + driven * B[n];
            y += h[n] * C[n];
        }
        if (in->z.data) {
            const lanes z = load(at(in->z, sample, time, group) + block.channel, block.count);
            y *= z * sigmoid(z);
        }
        store(at(out, sample, time, group) + block.channel, y, block.count);
    }
    clear_padding(shape, out, sample, group, block.channel, block.count);
}

/* starts: scan_start_floats floats for the backward pass, or NULL. */
void scan_forward(const Shape *shape, const Operands *in, Series out, float *starts) {
    const int64_t blocks = blocks_of(shape), items = shape->batch * shape->groups * blocks;
#pragma omp parallel for schedule(dynamic, 1) num_threads(shape->threads)
    for (int64_t item = 0; item < items; item++) {
        const int64_t sample = item / blocks / shape->groups, group = item / blocks % shape->groups;
        float *mine = starts ? starts + start_place(shape, sample, group, item % blocks) : NULL;
        if (shape->states == 8) forward_block(shape, in, out, mine, sample, group, item % blocks, 8);
        else if (shape->states == 16) forward_block(shape, in, out, mine, sample, group, item % blocks, 16);
        else forward_block(shape, in, out, mine, sample, group, item % blocks, (int)shape->states);
    }
}

typedef struct {
    Series out;                  /* gradient of the output */
    Series u, delta, z, B, C;    /* [batch, time, groups, ...] */
    float *A, *D, *bias;         /* [batch, groups, channels, states], [batch, groups, channels]; to be summed over batch */
} Gradients;

/* What one thread needs for one (sample, group): a chunk seen again, and sums that outlive a chunk. */
typedef struct {
    lanes *h, *decay;       /* [CHUNK + 1, states] states before and after each step; [CHUNK, states] */
    lanes *sum_B, *sum_C;   /* [CHUNK, states] */
    lanes *rates;           /* [blocks, states] log2(e) * A */
    lanes *dh, *dA;         /* [blocks, states] */
    lanes *dD, *dbias;      /* [blocks] */
} Workspace;

static int64_t workspace_lanes(const Shape *shape) {
    const int64_t states = shape->states;
    return (4 * CHUNK + 1) * states + blocks_of(shape) * (3 * states + 2);
}

static Workspace workspace_at(lanes *memory, const Shape *shape) {
    const int64_t chunk = CHUNK * shape->states, all = blocks_of(shape) * shape->states;
    Workspace w;
    w.h = memory;
    w.decay = w.h + chunk + shape->states;
    w.sum_B = w.decay + chunk;
    w.sum_C = w.sum_B + chunk;
    w.rates = w.sum_C + chunk;
    w.dh = w.rates + all;
    w.dA = w.dh + all;
    w.dD = w.dA + all;
    w.dbias = w.dD + blocks_of(shape);
    return w;
}

/* Runs the chunk again from its start: w->h and w->decay. */
static inline __attribute__((always_inline)) void repeat_chunk(const Shape *shape, const Operands *in, const Block *block,
                                                               const float *start, int64_t first, int64_t last,
                                                               const lanes *rates, Workspace *w, int states) {
    memcpy(w->h, start, states * sizeof(lanes));
    for (int64_t step = first; step < last; step++) {
        const int64_t time = time_of(step, block->valid, block->reversed);
        const lanes d = step_size(shape, in, block, time);
        const lanes driven = d * load(at(in->u, block->sample, time, block->group) + block->channel, block->count);
        const float *B = at(in->B, block->sample, time, block->group);
        const lanes *before = w->h + (step - first) * states;
        lanes *after = w->h + (step - first + 1) * states, *decay = w->decay + (step - first) * states;
        for (int n = 0; n < states; n++) {
            decay[n] = power_of_two(d * rates[n]);
            after[n] = decay[n] * before[n] + driven * B[n];
        }
    }
}

static inline __attribute__((always_inline)) void backward_chunk(const Shape *shape, const Operands *in,
                                                                 const Gradients *grad, const Block *block,
                                                                 int64_t first, int64_t last, int64_t index, Workspace *w,
                                                                 int states) {
    lanes *dA = w->dA + index * states;
    const lanes *rates = w->rates + index * states;
    lanes dh[states];
    memcpy(dh, w->dh + index * states, sizeof dh);
    for (int64_t step = last - 1; step >= first; step--) {
        const int64_t time = time_of(step, block->valid, block->reversed), local = (step - first) * states;
        const int64_t sample = block->sample, group = block->group, channel = block->channel, count = block->count;
        const lanes d = step_size(shape, in, block, time);
        const lanes u = load(at(in->u, sample, time, group) + channel, count);
        const float *B = at(in->B, sample, time, group), *C = at(in->C, sample, time, group);
        const lanes *before = w->h + local, *after = before + states, *decay = w->decay + local;
        lanes dy = load(at(grad->out, sample, time, group) + channel, count);
        if (in->z.data) {
            const lanes z = load(at(in->z, sample, time, group) + channel, count), s = sigmoid(z);
            lanes y = block->skip * u;
            for (int n = 0; n < states; n++) y += after[n] * C[n];
            store(at(grad->z, sample, time, group) + channel, dy * y * s * (1.0f + z * (1.0f - s)), count);
            dy *= z * s;
        }
        const lanes driven = d * u;
        lanes through_B = {}, dd = {};
        for (int n = 0; n < states; n++) {
            w->sum_C[local + n] += dy * after[n];
            const lanes g = dh[n] + dy * C[n];
            w->sum_B[local + n] += g * driven;
            through_B += g * B[n];
            const lanes carried = g * decay[n], rate = carried * before[n];
            dd += rate * rates[n];
            dA[n] += rate * d;
            dh[n] = carried;
        }
        dd = dd * 0.693147181f + through_B * u;
        /* The derivative of softplus at x is 1 - e^-softplus(x). */
        if (shape->softplus) dd *= 1.0f - exponential(-d);
        w->dbias[index] += dd;
        w->dD[index] += dy * u;
        store(at(grad->delta, sample, time, group) + channel, dd, count);
        store(at(grad->u, sample, time, group) + channel, dy * block->skip + through_B * d, count);
    }
    memcpy(w->dh + index * states, dh, sizeof dh);
}

static inline Gradients gradients_of(const Shape *shape, const Gradients *grad, int64_t sample) {
    Gradients own = *grad;
    own.out = located(shape, grad->out, sample);
    own.u = located(shape, grad->u, sample), own.delta = located(shape, grad->delta, sample);
    own.z = located(shape, grad->z, sample), own.B = located(shape, grad->B, sample);
    own.C = located(shape, grad->C, sample);
    return own;
}

static inline __attribute__((always_inline)) void backward_group(const Shape *shape, const Operands *all,
                                                                 const float *starts, const Gradients *gradients,
                                                                 int64_t sample, int64_t group, lanes *memory, int states) {
    const Operands own = operands_of(shape, all, sample), *in = &own;
    const Gradients due = gradients_of(shape, gradients, sample), *grad = &due;
    const int64_t blocks = blocks_of(shape), valid = valid_steps(shape, sample);
    memset(memory, 0, workspace_lanes(shape) * sizeof(lanes));
    Workspace w = workspace_at(memory, shape);
    for (int64_t index = 0; index < blocks; index++) {
        const Block block = block_at(shape, in, sample, group, index);
        load_rates(shape, in, &block, w.rates + index * states, states);
    }
    for (int64_t chunk = (valid + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
        const int64_t first = chunk * CHUNK, last = first + CHUNK < valid ? first + CHUNK : valid;
        memset(w.sum_B, 0, 2 * CHUNK * states * sizeof(lanes));
        for (int64_t index = 0; index < blocks; index++) {
            const Block block = block_at(shape, in, sample, group, index);
            const float *start = starts + start_place(shape, sample, group, index) + chunk * states * LANES;
            repeat_chunk(shape, in, &block, start, first, last, w.rates + index * states, &w, states);
            backward_chunk(shape, in, grad, &block, first, last, index, &w, states);
        }
        for (int64_t step = first; step < last; step++) {
            const int64_t time = time_of(step, valid, shape->reverse[group]), local = (step - first) * states;
            for (int n = 0; n < states; n++) {
                at(grad->B, sample, time, group)[n] = sum(w.sum_B[local + n]);
                at(grad->C, sample, time, group)[n] = sum(w.sum_C[local + n]);
            }
        }
    }
    for (int64_t index = 0; index < blocks; index++) {
        const int64_t channel = index * LANES, count = shape->channels - channel;
        const int64_t place = (sample * shape->groups + group) * shape->channels + channel;
        for (int n = 0; n < states; n++)
            store_strided(grad->A + place * states + n, w.dA[index * states + n], states, count);
        store(grad->D + place, w.dD[index], count);
        store(grad->bias + place, w.dbias[index], count);
    }
}

static lanes *new_lanes(int64_t count) {
    void *memory = NULL;
    return posix_memalign(&memory, 64, count * sizeof(lanes)) ? NULL : memory;
}

/* Gradients of series must be zero in padding before the call. Returns 0, or 1 where memory ran out. */
int scan_backward(const Shape *shape, const Operands *in, const float *starts, const Gradients *grad) {
    const int64_t items = shape->batch * shape->groups;
    int failed = 0;
#pragma omp parallel num_threads(shape->threads) reduction(| : failed)
    {
        lanes *memory = new_lanes(workspace_lanes(shape));
        failed = memory == NULL;
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < items; item++) {
            if (!memory) continue;
            const int64_t sample = item / shape->groups, group = item % shape->groups;
            if (shape->states == 8) backward_group(shape, in, starts, grad, sample, group, memory, 8);
            else if (shape->states == 16) backward_group(shape, in, starts, grad, sample, group, memory, 16);
            else backward_group(shape, in, starts, grad, sample, group, memory, (int)shape->states);
        }
        free(memory);
    }
    return failed;
}
