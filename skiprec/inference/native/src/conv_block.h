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
  Precision precision;  // of the taps
};

struct ConvBlock {
  Conv conv[2];
  int dilation;
  float scale;
};

// Positions of a user that a convolution computes, rising.
struct Positions {
  const int* at;
  int count;
};

// Rows of several users that wait for their sums; all of them fit the first cache.
struct ConvScratch {
  const float* source[TAPS][ROWS_AT_ONCE];
  float* out[ROWS_AT_ONCE];
  float* target[ROWS_AT_ONCE];
  int waiting;
  float* sums;  // [ROWS_AT_ONCE, stride]
  const float* zeros;
};

// A user's rows, `stride` floats apart, and the positions that a convolution computes.
struct ConvInput {
  const float* rows;
  float* target;
  Positions positions;
};

template <Then THEN>
inline void flush(int width, int stride, const Conv& conv, float scale, ConvScratch& s) {
  Term term[TAPS];
  for (int tap = 0; tap < TAPS; tap++) term[tap] = {s.source[tap], conv.taps[tap], width, s.zeros};
  for (int i = 0; i < s.waiting; i++) s.out[i] = s.sums + (size_t)i * stride;
  sum_of_products(term, TAPS, s.waiting, stride, conv.bias, s.out, conv.precision);
  for (int i = 0; i < s.waiting; i++)
    norm_row<THEN>(s.out[i], width, conv.norm, scale, s.target[i]);
  s.waiting = 0;
}

// The normalised convolution at the positions of all users. Rows are taken in the order of their
// positions, so that those whose taps lie before the window are neighbours and cost nothing.
template <Then THEN>
inline void convolve(const ConvInput* input, int users, int positions, int width, int stride,
                     int dilation, const Conv& conv, float scale, ConvScratch& s, int* cursor) {
  for (int u = 0; u < users; u++) cursor[u] = 0;
  for (int at = 0; at < positions; at++)
    for (int u = 0; u < users; u++) {
      const ConvInput& own = input[u];
      if (cursor[u] == own.positions.count || own.positions.at[cursor[u]] != at) continue;
      cursor[u]++;
      for (int tap = 0, from = at; tap < TAPS; tap++, from -= dilation)
        s.source[tap][s.waiting] = from >= 0 ? own.rows + (size_t)from * stride : s.zeros;
      s.target[s.waiting++] = own.target + (size_t)at * stride;
      if (s.waiting == ROWS_AT_ONCE) flush<THEN>(width, stride, conv, scale, s);
    }
  if (s.waiting) flush<THEN>(width, stride, conv, scale, s);
}

// Which positions each kept block must compute so that the last one comes out right.
//
// Backwards from the last kept block: an output position needs the hidden rows 0, 2 d and 4 d
// before it, and each of these the inputs 0, d and 2 d before it. Once all positions are needed,
// earlier blocks compute all of them. `plan` has room for 2 * positions * kept entries; `need` for
// 3 rows of bytes.
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
