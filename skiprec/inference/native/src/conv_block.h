// Blocks of dilated causal convolutions (NextItNet, NextItNet+), and the encoder of the policy,
// which is made of the same convolutions.
//
//     h = relu(norm(conv(x, dilation)));  x += scale * relu(norm(conv(h, 2 * dilation)))
#pragma once

constexpr int TAPS = 3;

struct Conv {
  const float* taps[TAPS];  // packed [in, out], the newest tap first
  const float* bias;
  Norm norm;
};

struct ConvBlock {
  Conv conv[2];
  int dilation;
  float scale;
};

// Rows of a user that a convolution computes: positions, rising.
struct Positions {
  const int* at;
  int count;
};

// Buffers of one user; `rows` has TAPS * positions entries, `sums` room for `positions` rows.
struct ConvScratch {
  const float** rows;
  float** out;
  float* sums;
  float* hidden;
  const float* zeros;
};

// The sums of a convolution at the given positions, one row for each of them in scratch.sums.
inline void convolve(const float* x, int width, int stride, Positions positions, int dilation,
                     const Conv& conv, ConvScratch& scratch) {
  Term term[TAPS];
  for (int tap = 0; tap < TAPS; tap++) {
    const float** row = scratch.rows + (size_t)tap * positions.count;
    for (int i = 0; i < positions.count; i++) {
      int source = positions.at[i] - tap * dilation;
      row[i] = source >= 0 ? x + (size_t)source * stride : scratch.zeros;
    }
    term[tap] = {row, conv.taps[tap], width, scratch.zeros};
  }
  for (int i = 0; i < positions.count; i++) scratch.out[i] = scratch.sums + (size_t)i * stride;
  sum_of_products(term, TAPS, positions.count, stride, conv.bias, scratch.out);
}

// x[at] += scale * relu(norm(conv(relu(norm(conv(x)))))) for the positions of `out`, which need the
// hidden rows of `middle`. Rows are `stride` floats apart.
inline void run_conv_block(float* x, int width, int stride, Positions middle, Positions out,
                           const ConvBlock& block, ConvScratch& scratch) {
  convolve(x, width, stride, middle, block.dilation, block.conv[0], scratch);
  for (int i = 0; i < middle.count; i++)
    norm_row<STORE_RELU>(scratch.sums + (size_t)i * stride, width, block.conv[0].norm, 1.0f,
                         scratch.hidden + (size_t)middle.at[i] * stride);
  convolve(scratch.hidden, width, stride, out, 2 * block.dilation, block.conv[1], scratch);
  for (int i = 0; i < out.count; i++)
    norm_row<ADD_RELU>(scratch.sums + (size_t)i * stride, width, block.conv[1].norm, block.scale,
                       x + (size_t)out.at[i] * stride);
}

// Which positions each kept block must compute so that the last one comes out right.
//
// Backwards from the last kept block: an output position needs the hidden rows 0, 2 d and 4 d before
// it, and each of these the inputs 0, d and 2 d before it. Once all positions are needed, earlier
// blocks compute all of them. `plan` has room for 2 * positions * kept entries; `need` for 3 rows of
// bytes.
struct PlannedBlock {
  Positions middle, out;
};

inline void plan_positions(const ConvBlock* blocks, const int* kept, int num_kept, int positions,
                           int* plan, uint8_t* need, PlannedBlock* planned) {
  uint8_t *output = need, *hidden = need + positions, *input = need + 2 * positions;
  memset(output, 0, positions);
  output[positions - 1] = 1;
  for (int k = num_kept - 1; k >= 0; k--) {
    int dilation = blocks[kept[k]].dilation;
    memset(hidden, 0, positions);
    memcpy(input, output, positions);
    int* out = plan;
    for (int t = 0; t < positions; t++) {
      if (!output[t]) continue;
      *plan++ = t;
      for (int source = t, tap = 0; tap < TAPS && source >= 0; tap++, source -= 2 * dilation)
        hidden[source] = 1;
    }
    int* middle = plan;
    for (int t = 0; t < positions; t++) {
      if (!hidden[t]) continue;
      *plan++ = t;
      for (int source = t, tap = 0; tap < TAPS && source >= 0; tap++, source -= dilation)
        input[source] = 1;
    }
    planned[k] = {{middle, (int)(plan - middle)}, {out, (int)(middle - out)}};
    uint8_t* swap = output;
    output = input;
    input = swap;
  }
}
