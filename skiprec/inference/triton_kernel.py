"""The Triton kernel of `triton_blocks.py`. It has no types, because Triton reads its source."""

import triton
import triton.language as tl

EPSILON = tl.constexpr(1e-5)  # of LayerNorm


@triton.jit
def _norm_relu_of_convolution(
    source, weight, vector, at, time, is_computed, first, dilation, cols,
    WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """relu(LN(conv(source))) at some positions: [TILE, PADDED]. Tap 0 is the newest."""
    total = tl.zeros((TILE, PADDED), tl.float32) + tl.load(vector + cols)[None, :]
    for tap in tl.static_range(3):
        is_there = is_computed & (time - tap * dilation >= first)
        places = (at - tap * dilation)[:, None] * PADDED + cols[None, :]
        x = tl.load(source + places, mask=is_there[:, None], other=0.0)
        w = tl.load(weight + tap * PADDED * PADDED + cols[:, None] * PADDED + cols[None, :])
        total = tl.dot(x, w, total, input_precision=PRECISION)
    mean = tl.sum(total, 1) / WIDTH  # columns beyond WIDTH are zero
    centred = tl.where((cols < WIDTH)[None, :], total - mean[:, None], 0.0)
    rstd = 1 / tl.sqrt(tl.sum(centred * centred, 1) / WIDTH + EPSILON)
    gain, bias = tl.load(vector + PADDED + cols), tl.load(vector + 2 * PADDED + cols)
    return tl.maximum(centred * rstd[:, None] * gain[None, :] + bias[None, :], 0.0)


@triton.jit
def kept_blocks(
    x, hidden, weight, vector, scale, dilations, keep, first_of_row, rows_of_tiles,
    kept_of_tiles, count_of_tiles, num_tiles,
    LENGTH: tl.constexpr, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCKS: tl.constexpr,
    ROWS: tl.constexpr, TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Runs the kept blocks of all rows, in place: `x` and `hidden` are [rows, LENGTH, PADDED].

    A program takes every n-th tile. A block of a tile runs on the positions of the rows that keep
    it, first into `hidden`, then back into `x`; a barrier stands between, because a convolution
    reads what other threads of the program wrote.
    """
    cols = tl.arange(0, PADDED)
    for tile in range(tl.program_id(0), num_tiles, tl.num_programs(0)):
        for place in range(0, tl.load(count_of_tiles + tile)):
            block = tl.load(kept_of_tiles + tile * BLOCKS + place)
            dilation = tl.load(dilations + block)
            block_weight = weight + block * 6 * PADDED * PADDED
            block_vector = vector + block * 6 * PADDED
            for half in tl.static_range(2):
                for start in range(0, ROWS * LENGTH, TILE):
                    index = start + tl.arange(0, TILE)
                    is_inside = index < ROWS * LENGTH
                    time = index % LENGTH
                    row = tl.load(
                        rows_of_tiles + tile * ROWS + index // LENGTH, mask=is_inside, other=-1
                    )
                    is_row = row >= 0
                    first = tl.load(first_of_row + row, mask=is_row, other=LENGTH)
                    is_kept = tl.load(keep + row * BLOCKS + block, mask=is_row, other=0) != 0
                    is_computed = is_kept & (time >= first)
                    at = row.to(tl.int64) * LENGTH + time
                    branch = _norm_relu_of_convolution(
                        x if half == 0 else hidden,
                        block_weight + half * 3 * PADDED * PADDED,
                        block_vector + half * 3 * PADDED,
                        at, time, is_computed, first, dilation * (1 + half), cols,
                        WIDTH, PADDED, TILE, PRECISION,
                    )  # fmt: skip
                    out = at[:, None] * PADDED + cols[None, :]
                    mask = is_computed[:, None]
                    if half == 0:
                        tl.store(hidden + out, branch, mask=mask)
                    else:
                        before = tl.load(x + out, mask=mask, other=0.0)
                        tl.store(x + out, before + tl.load(scale + block) * branch, mask=mask)
                tl.debug_barrier()
