"""Triton kernels of the short convolution: both directions at once, series as they lie, padding never looked at.

A program holds [steps, channels] of one sample and group; time is in scan order, as in ``scan_kernels``.
"""

import triton
import triton.language as tl

from models.scan.scan_kernels import VARYING, room_of, sequence_of, series_at, token_of


@triton.jit
def load_steps(series, series_t, step, count, backward, known):
    """Float32 [STEPS, CHANNELS] of a series at steps [STEPS], zero where there is none."""
    inside = (step >= 0) & (step < count)
    token = token_of(step, count, backward)
    mask = inside[:, None] & known[None, :]
    return tl.load(series + token[:, None] * series_t, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def filtered(x, x_t, weight, bias, step, count, backward, known, TAPS: tl.constexpr):
    """Output [STEPS, CHANNELS] of the filter at steps [STEPS], before the SiLU. weight: of each channel's first tap."""
    total = load_steps(x, x_t, step - (TAPS - 1), count, backward, known)
    total = bias[None, :] + total * tl.load(weight, mask=known, other=0.0)[None, :]
    for tap in tl.static_range(1, TAPS):
        value = load_steps(x, x_t, step - (TAPS - 1) + tap, count, backward, known)
        total += value * tl.load(weight + tap, mask=known, other=0.0)[None, :]
    return total


@triton.jit(do_not_specialize=VARYING)
def convolve(
    x, x_b, x_t, x_g, weight, bias, lengths, out, length, groups, channels, reverse,
    TAPS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """out, contiguous. Programs: blocks of steps, blocks of channels, batch * groups."""
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    step = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    weight += (group * channels + channel) * TAPS
    x = series_at(x, sample, first_row, group, x_b, x_t, x_g, PACKED) + channel[None, :]
    total = filtered(x, x_t, weight, shift, step, count, backward, known, TAPS)
    result = tl.where((step < count)[:, None], total * tl.sigmoid(total), 0.0)
    place = ((first_row + token_of(step, count, backward)) * groups + group) * channels
    mask = (step < room_of(length, count, PACKED))[:, None] & known[None, :]
    tl.store(out + place[:, None] + channel[None, :], result.to(out.dtype.element_ty), mask=mask)


@triton.jit
def slope(x, x_t, weight, bias, d_out, d_out_t, step, count, backward, known, TAPS: tl.constexpr):
    """Gradient [STEPS, CHANNELS] of the filter's output at steps [STEPS], before the SiLU."""
    total = filtered(x, x_t, weight, bias, step, count, backward, known, TAPS)
    open_ = tl.sigmoid(total)
    gradient = load_steps(d_out, d_out_t, step, count, backward, known)
    return gradient * open_ * (1.0 + total * (1.0 - open_))


@triton.jit(do_not_specialize=VARYING)
def convolution_gradients(
    x, x_b, x_t, x_g, weight, bias, lengths, d_out, d_out_b, d_out_t, d_out_g, d_x, d_weight, d_bias,
    length, blocks, groups, channels, reverse,
    TAPS: tl.constexpr, STEPS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """d_x, contiguous, and what is to be summed: d_weight [batch, groups, blocks of steps, channels, taps] and d_bias,
    which has no taps. Programs as of ``convolve``.
    """
    sample, first_row, group, count, backward = sequence_of(lengths, length, groups, reverse, PADDED, PACKED)
    step = tl.program_id(0) * STEPS + tl.arange(0, STEPS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    shift = tl.load(bias + group * channels + channel, mask=known, other=0.0)
    weight += (group * channels + channel) * TAPS
    x = series_at(x, sample, first_row, group, x_b, x_t, x_g, PACKED) + channel[None, :]
    d_out = series_at(d_out, sample, first_row, group, d_out_b, d_out_t, d_out_g, PACKED) + channel[None, :]
    own = slope(x, x_t, weight, shift, d_out, d_out_t, step, count, backward, known, TAPS)
    total = own * tl.load(weight + TAPS - 1, mask=known, other=0.0)[None, :]
    for later in tl.static_range(1, TAPS):
        # A later step looks back at this one by a tap before its last.
        other = slope(x, x_t, weight, shift, d_out, d_out_t, step + later, count, backward, known, TAPS)
        total += other * tl.load(weight + TAPS - 1 - later, mask=known, other=0.0)[None, :]
    total = tl.where((step < count)[:, None], total, 0.0)
    place = ((first_row + token_of(step, count, backward)) * groups + group) * channels
    mask = (step < room_of(length, count, PACKED))[:, None] & known[None, :]
    tl.store(d_x + place[:, None] + channel[None, :], total.to(d_x.dtype.element_ty), mask=mask)
    row = (tl.program_id(2).to(tl.int64) * blocks + tl.program_id(0)) * channels + channel
    tl.store(d_bias + row, tl.sum(own, axis=0), mask=known)
    for tap in tl.static_range(TAPS):
        value = load_steps(x, x_t, step - (TAPS - 1) + tap, count, backward, known)
        tl.store(d_weight + row * TAPS + tap, tl.sum(own * value, axis=0), mask=known)
