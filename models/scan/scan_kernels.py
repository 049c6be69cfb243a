"""Triton kernels of the selective scan: all groups at once, series [batch, L, groups, features] as they lie in memory.

The sequence is cut into chunks that are scanned side by side: the state at each chunk's end from a zero state, then
the states carried from chunk to chunk, then the outputs from the right state. The gradient goes the same way backwards
and recomputes a chunk's states from the state before it. A program holds [states, channels] of one chunk in one warp:
channels on its lanes, states in the registers of a lane.

Time in a kernel is scan order: step i of a reversed group is token count - 1 - i of the ``count`` valid ones; padding
is never scanned. Packed sequences lie end to end in one series; each is scanned as a sample of its own. Nothing is
summed by atomics, so results do not depend on the order of programs.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
SERIES = ("u", "delta", "z", "B", "C", "d_out", "x")
VARYING = ["batch", "length", "chunks", "blocks", "groups", "channels", "states", "reverse"]
VARYING += [f"{series}_{axis}" for series in SERIES for axis in "btg"]
"""Numbers that kernels are not compiled again for, the strides among them: a lane loads single values."""


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to the last places for any x; a float32 has no log1p here."""
    small = tl.exp(-tl.abs(x))
    rounded = 1.0 + small
    exact = tl.where(rounded == 1.0, small, tl.log(rounded) * (small / tl.where(rounded == 1.0, 1.0, rounded - 1.0)))
    return tl.maximum(x, 0.0) + exact


@triton.jit
def token_of(step, count, backward):
    """The token of a step; beyond the valid ones each step is its own token."""
    return tl.where(backward & (step < count), count - 1 - step, step)


@triton.jit
def sequence_of(lengths, length, groups, reverse, PADDED: tl.constexpr, PACKED: tl.constexpr):
    """(sample, first row, group, valid tokens, whether backward) of a program whose third index is sample * groups +
    group.

    Rows are the tokens of all samples, one after the other. lengths: valid tokens of each sample if PADDED; if PACKED
    their first rows and the end, and ``sample`` is 0, the place of the one series that they lie in.
    """
    pair = tl.program_id(2)
    sample = (pair // groups).to(tl.int64)
    group = pair % groups
    first = sample * length
    count = length
    if PADDED:
        count = tl.load(lengths + sample).to(tl.int32)
    if PACKED:
        first = tl.load(lengths + sample).to(tl.int64)
        count = (tl.load(lengths + sample + 1) - first).to(tl.int32)
        sample = sample * 0
    return sample, first, group, count, ((reverse >> group) & 1) == 1


@triton.jit
def room_of(length, count, PACKED: tl.constexpr):
    """Steps of a sample that are written: with its padding; packed, the next row is another sample's."""
    room = length
    if PACKED:
        room = count
    return room


@triton.jit
def series_at(series, sample, first, group, series_b, series_t, series_g, PACKED: tl.constexpr):
    """A series from the first token of a program's sample and group on."""
    series += sample * series_b + group * series_g
    if PACKED:
        series += first * series_t
    return series


@triton.jit
def load_rates(A, group, channel, state, channels, states):
    """Decay rates [STATES, CHANNELS] of A [groups, channels, states], 0 beyond them."""
    place = (group * channels + channel[None, :]) * states + state[:, None]
    return tl.load(A + place, mask=(channel[None, :] < channels) & (state[:, None] < states), other=0.0)


@triton.jit
def load_step(delta, bias, inside, known, SOFTPLUS: tl.constexpr):
    """(step size, its argument) [CHANNELS] of one token; beyond the valid ones a step of 0, which changes no state."""
    raw = tl.load(delta, mask=known & inside, other=0.0).to(tl.float32) + bias
    size = raw
    if SOFTPLUS:
        size = softplus(raw)
    return tl.where(inside, size, 0.0), raw


@triton.jit
def next_state(
    h, rates, shift, u, u_t, delta, delta_t, B, B_t, step, count, backward, known, held, SOFTPLUS: tl.constexpr
):  # fmt: skip
    """(state [STATES, CHANNELS] after a step, size and input [CHANNELS] of the step)."""
    inside = step < count
    token = token_of(step, count, backward)
    size, _ = load_step(delta + token * delta_t, shift, inside, known, SOFTPLUS)
    value = tl.load(u + token * u_t, mask=known & inside, other=0.0).to(tl.float32)
    source = tl.load(B + token * B_t, mask=held & inside, other=0.0).to(tl.float32)
    return tl.exp2(size[None, :] * rates) * h + (size * value)[None, :] * source[:, None], size, value


@triton.jit(do_not_specialize=VARYING)
def end_states(
    u, u_b, u_t, u_g, delta, delta_b, delta_t, delta_g, B, B_b, B_t, B_g, A, bias, lengths, ends, sizes,
    length, chunks, groups, channels, states, reverse,
    CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
    SOFTPLUS: tl.constexpr, BIASED: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """ends [batch, groups, chunks, states, channels]: state after a chunk that starts at zero. sizes [batch, groups,
    chunks, channels]: sum of its step sizes. Programs: chunks, blocks of channels, batch * groups.
    """
    chunk = tl.program_id(0)
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    state = tl.arange(0, STATES)
    known, held = channel < channels, state < states
    rates = load_rates(A, group, channel, state, channels, states) * LOG2_E
    shift = tl.zeros((CHANNELS,), tl.float32)
    if BIASED:
        shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    u = series_at(u, sample, first_row, group, u_b, u_t, u_g, PACKED) + channel
    delta = series_at(delta, sample, first_row, group, delta_b, delta_t, delta_g, PACKED) + channel
    B = series_at(B, sample, first_row, group, B_b, B_t, B_g, PACKED) + state
    h = tl.zeros((STATES, CHANNELS), tl.float32)
    total = tl.zeros((CHANNELS,), tl.float32)
    for first in range(chunk * CHUNK, chunk * CHUNK + CHUNK, GROUP):
        for offset in tl.static_range(GROUP):
            h, size, _ = next_state(
                h, rates, shift, u, u_t, delta, delta_t, B, B_t, first + offset, count, backward, known, held, SOFTPLUS
            )
            total += size
    row = tl.program_id(2).to(tl.int64) * chunks + chunk
    place = (row * states + state[:, None]) * channels + channel[None, :]
    tl.store(ends + place, h, mask=held[:, None] & known[None, :])
    tl.store(sizes + row * channels + channel, total, mask=known)


@triton.jit(do_not_specialize=VARYING)
def carry(
    ends, sizes, A, chunks, groups, channels, states,
    ROWS: tl.constexpr, LANES: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    """Replace what each chunk adds by what comes into it: from the chunks before it, or behind it if BACKWARD.

    Programs: blocks of states * channels, batch * groups. ROWS chunks are loaded at a time.
    """
    pair = tl.program_id(1).to(tl.int64)
    entry = tl.program_id(0) * LANES + tl.arange(0, LANES)
    known = entry < states * channels
    channel = entry % channels
    rate_place = ((pair % groups) * channels + channel) * states + entry // channels
    rate = tl.load(A + rate_place, mask=known, other=0.0) * LOG2_E
    value = tl.zeros((LANES,), tl.float32)
    for first in range(0, chunks, ROWS):
        added = ()
        decays = ()
        for offset in tl.static_range(ROWS):
            row = first + offset
            valid = known & (row < chunks)
            if BACKWARD:
                row = chunks - 1 - row
            row = pair * chunks + row
            added = added + (tl.load(ends + row * states * channels + entry, mask=valid, other=0.0),)
            decays = decays + (tl.exp2(tl.load(sizes + row * channels + channel, mask=valid, other=0.0) * rate),)
        for offset in tl.static_range(ROWS):
            row = first + offset
            valid = known & (row < chunks)
            if BACKWARD:
                row = chunks - 1 - row
            row = pair * chunks + row
            tl.store(ends + row * states * channels + entry, value, mask=valid)
            value = decays[offset] * value + added[offset]


@triton.jit(do_not_specialize=VARYING)
def outputs(
    u, u_b, u_t, u_g, delta, delta_b, delta_t, delta_g, z, z_b, z_t, z_g, B, B_b, B_t, B_g, C, C_b, C_t, C_g,
    A, D, bias, lengths, starts, out,
    length, chunks, groups, channels, states, reverse,
    CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
    SOFTPLUS: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
    STARTED: tl.constexpr,
):  # fmt: skip
    """out, contiguous, from the state before each chunk; zero if not STARTED. Programs as of ``end_states``."""
    chunk = tl.program_id(0)
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    state = tl.arange(0, STATES)
    known, held = channel < channels, state < states
    rates = load_rates(A, group, channel, state, channels, states) * LOG2_E
    skip = tl.load(D + group * channels + channel, mask=known, other=0.0)
    shift = tl.zeros((CHANNELS,), tl.float32)
    if BIASED:
        shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    u = series_at(u, sample, first_row, group, u_b, u_t, u_g, PACKED) + channel
    delta = series_at(delta, sample, first_row, group, delta_b, delta_t, delta_g, PACKED) + channel
    B = series_at(B, sample, first_row, group, B_b, B_t, B_g, PACKED) + state
    C = series_at(C, sample, first_row, group, C_b, C_t, C_g, PACKED) + state
    if GATED:
        z = series_at(z, sample, first_row, group, z_b, z_t, z_g, PACKED) + channel
    h = tl.zeros((STATES, CHANNELS), tl.float32)
    if STARTED:
        row = tl.program_id(2).to(tl.int64) * chunks + chunk
        place = (row * states + state[:, None]) * channels + channel[None, :]
        h = tl.load(starts + place, mask=held[:, None] & known[None, :], other=0.0)
    for first in range(chunk * CHUNK, chunk * CHUNK + CHUNK, GROUP):
        # Stored after the last load: a store between loads would keep them from being issued early.
        results = ()
        for offset in tl.static_range(GROUP):
            step = first + offset
            inside = step < count
            token = token_of(step, count, backward)
            h, _, value = next_state(
                h, rates, shift, u, u_t, delta, delta_t, B, B_t, step, count, backward, known, held, SOFTPLUS
            )
            readout = tl.load(C + token * C_t, mask=held & inside, other=0.0).to(tl.float32)
            result = tl.sum(h * readout[:, None], axis=0) + skip * value
            if GATED:
                gate = tl.load(z + token * z_t, mask=known & inside, other=0.0).to(tl.float32)
                result *= gate * tl.sigmoid(gate)
            results = results + (result,)
        for offset in tl.static_range(GROUP):
            step = first + offset
            token = token_of(step, count, backward)
            token_row = (first_row + token) * groups + group
            tl.store(
                out + token_row * channels + channel,
                results[offset].to(out.dtype.element_ty),
                mask=known & (step < room_of(length, count, PACKED)),
            )


@triton.jit(do_not_specialize=VARYING)
def start_gradients(
    delta, delta_b, delta_t, delta_g, z, z_b, z_t, z_g, C, C_b, C_t, C_g, d_out, d_out_b, d_out_t, d_out_g,
    A, bias, lengths, gradients,
    length, chunks, groups, channels, states, reverse,
    CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
    SOFTPLUS: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """gradients, as ``ends``: of the state before a chunk, by the outputs of that chunk alone. Programs likewise."""
    chunk = tl.program_id(0)
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    state = tl.arange(0, STATES)
    known, held = channel < channels, state < states
    rates = load_rates(A, group, channel, state, channels, states) * LOG2_E
    shift = tl.zeros((CHANNELS,), tl.float32)
    if BIASED:
        shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    delta = series_at(delta, sample, first_row, group, delta_b, delta_t, delta_g, PACKED) + channel
    C = series_at(C, sample, first_row, group, C_b, C_t, C_g, PACKED) + state
    d_out = series_at(d_out, sample, first_row, group, d_out_b, d_out_t, d_out_g, PACKED) + channel
    if GATED:
        z = series_at(z, sample, first_row, group, z_b, z_t, z_g, PACKED) + channel
    d_h = tl.zeros((STATES, CHANNELS), tl.float32)
    for turned in range(0, CHUNK, GROUP):
        for offset in tl.static_range(GROUP):
            step = chunk * CHUNK + CHUNK - 1 - turned - offset
            inside = step < count
            token = token_of(step, count, backward)
            size, _ = load_step(delta + token * delta_t, shift, inside, known, SOFTPLUS)
            readout = tl.load(C + token * C_t, mask=held & inside, other=0.0).to(tl.float32)
            d_y = tl.load(d_out + token * d_out_t, mask=known & inside, other=0.0).to(tl.float32)
            if GATED:
                gate = tl.load(z + token * z_t, mask=known & inside, other=0.0).to(tl.float32)
                d_y *= gate * tl.sigmoid(gate)
            d_h = tl.exp2(size[None, :] * rates) * (d_h + readout[:, None] * d_y[None, :])
    row = tl.program_id(2).to(tl.int64) * chunks + chunk
    place = (row * states + state[:, None]) * channels + channel[None, :]
    tl.store(gradients + place, d_h, mask=held[:, None] & known[None, :])


@triton.jit(do_not_specialize=VARYING)
def operand_gradients(
    u, u_b, u_t, u_g, delta, delta_b, delta_t, delta_g, z, z_b, z_t, z_g, B, B_b, B_t, B_g, C, C_b, C_t, C_g,
    d_out, d_out_b, d_out_t, d_out_g, A, D, bias, lengths, starts, gradients,
    d_u, d_delta, d_z, d_B, d_C, d_A, d_D, d_bias,
    batch, length, chunks, groups, channels, states, reverse,
    CHUNK: tl.constexpr, GROUP: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr,
    SOFTPLUS: tl.constexpr, BIASED: tl.constexpr, GATED: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
    STARTED: tl.constexpr,
):  # fmt: skip
    """Gradients of all operands. starts, gradients: what comes into each chunk from before and from behind it.

    d_u, d_delta, d_z: contiguous. d_B, d_C: float32 [blocks of channels, batch, L, groups, states], d_A as ``starts``,
    d_D, d_bias [batch, groups, chunks, channels], all to be summed. Programs as of ``end_states``.
    """
    chunk = tl.program_id(0)
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    state = tl.arange(0, STATES)
    known, held = channel < channels, state < states
    slopes = load_rates(A, group, channel, state, channels, states)
    rates = slopes * LOG2_E
    skip = tl.load(D + group * channels + channel, mask=known, other=0.0)
    shift = tl.zeros((CHANNELS,), tl.float32)
    if BIASED:
        shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    u = series_at(u, sample, first_row, group, u_b, u_t, u_g, PACKED) + channel
    delta = series_at(delta, sample, first_row, group, delta_b, delta_t, delta_g, PACKED) + channel
    B = series_at(B, sample, first_row, group, B_b, B_t, B_g, PACKED) + state
    C = series_at(C, sample, first_row, group, C_b, C_t, C_g, PACKED) + state
    d_out = series_at(d_out, sample, first_row, group, d_out_b, d_out_t, d_out_g, PACKED) + channel
    if GATED:
        z = series_at(z, sample, first_row, group, z_b, z_t, z_g, PACKED) + channel
    row = tl.program_id(2).to(tl.int64) * chunks + chunk
    place = (row * states + state[:, None]) * channels + channel[None, :]
    both = held[:, None] & known[None, :]
    start = tl.zeros((STATES, CHANNELS), tl.float32)
    d_h = tl.zeros((STATES, CHANNELS), tl.float32)
    if STARTED:
        start = tl.load(starts + place, mask=both, other=0.0)
        d_h = tl.load(gradients + place, mask=both, other=0.0)
    sum_A = tl.zeros((STATES, CHANNELS), tl.float32)
    sum_D = tl.zeros((CHANNELS,), tl.float32)
    sum_bias = tl.zeros((CHANNELS,), tl.float32)
    for last in range(CHUNK - GROUP, -1, -GROUP):
        first = chunk * CHUNK + last
        h = start
        for earlier in range(chunk * CHUNK, first, GROUP):
            for offset in tl.static_range(GROUP):
                step = earlier + offset
                h, _, _ = next_state(
                    h, rates, shift, u, u_t, delta, delta_t, B, B_t, step, count, backward, known, held, SOFTPLUS
                )
        before = ()
        for offset in tl.static_range(GROUP):
            before = before + (h,)
            h, _, _ = next_state(
                h, rates, shift, u, u_t, delta, delta_t, B, B_t, first + offset, count, backward, known, held, SOFTPLUS
            )
        for turned in tl.static_range(GROUP):
            step = first + GROUP - 1 - turned
            inside = step < count
            written = step < room_of(length, count, PACKED)
            token = token_of(step, count, backward)
            size, raw = load_step(delta + token * delta_t, shift, inside, known, SOFTPLUS)
            value = tl.load(u + token * u_t, mask=known & inside, other=0.0).to(tl.float32)
            source = tl.load(B + token * B_t, mask=held & inside, other=0.0).to(tl.float32)
            readout = tl.load(C + token * C_t, mask=held & inside, other=0.0).to(tl.float32)
            d_y = tl.load(d_out + token * d_out_t, mask=known & inside, other=0.0).to(tl.float32)
            token_row = (first_row + token) * groups + group
            decay = tl.exp2(size[None, :] * rates)
            decayed = decay * before[GROUP - 1 - turned]
            driven = size * value
            h = decayed + driven[None, :] * source[:, None]
            if GATED:
                gate = tl.load(z + token * z_t, mask=known & inside, other=0.0).to(tl.float32)
                open_ = tl.sigmoid(gate)
                mixed = tl.sum(h * readout[:, None], axis=0) + skip * value
                result = d_y * mixed * open_ * (1.0 + gate * (1.0 - open_))
                tl.store(d_z + token_row * channels + channel, result.to(d_z.dtype.element_ty), mask=known & written)
                d_y *= gate * open_
            d_h += readout[:, None] * d_y[None, :]
            d_driven = tl.sum(d_h * source[:, None], axis=0)
            by_decay = decayed * d_h
            d_size = tl.sum(slopes * by_decay, axis=0) + value * d_driven
            if SOFTPLUS:
                d_size *= tl.sigmoid(raw)
            d_size = tl.where(inside, d_size, 0.0)
            d_value = size * d_driven + skip * d_y
            sum_A += size[None, :] * by_decay
            sum_D += value * d_y
            sum_bias += d_size
            tl.store(d_u + token_row * channels + channel, d_value.to(d_u.dtype.element_ty), mask=known & written)
            tl.store(
                d_delta + token_row * channels + channel, d_size.to(d_delta.dtype.element_ty), mask=known & written
            )
            part = ((tl.program_id(1).to(tl.int64) * batch * length * groups) + token_row) * states + state
            tl.store(d_B + part, tl.sum(d_h * driven[None, :], axis=1), mask=held & written)
            tl.store(d_C + part, tl.sum(h * d_y[None, :], axis=1), mask=held & written)
            d_h = decay * d_h
    tl.store(d_A + place, sum_A, mask=both)
    tl.store(d_D + row * channels + channel, sum_D, mask=known)
    if BIASED:
        tl.store(d_bias + row * channels + channel, sum_bias, mask=known)
