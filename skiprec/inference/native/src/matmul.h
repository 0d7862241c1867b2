// Products of a few rows with a packed matrix; the only place that multiplies float matrices.
#pragma once

// How the products of a matrix are taken; sums are always in float32. In bf16 two neighbouring
// inputs share a lane of 32 bits, in the rows and in the matrix; one instruction multiplies both.
enum Precision { FLOAT32, BF16 };

#if defined(__AVX512BF16__)
constexpr Precision OF_BLOCKS = BF16;  // a level that a caller asks for by name
#else
constexpr Precision OF_BLOCKS = FLOAT32;
#endif

// The lanes that hold `in` inputs: whole vectors of them in bf16, the last ones zero.
inline int lanes_of(int in, Precision precision) {
  return precision == BF16 ? round_up((in + 1) / 2, LANES) : in;
}

// A packed matrix [in, out]: tiles of MAX_VECTORS vectors of columns, each tile [lanes of in][its
// columns]. Columns are padded with zeros to whole vectors.
inline size_t packed_floats(int in, int out, Precision precision) {
  return (size_t)lanes_of(in, precision) * round_up(out, LANES);
}

// The upper half of a float's bits, rounded to nearest, ties to even.
inline uint32_t bf16_bits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
}

inline void pack(const float* matrix, int in, int out, Precision precision, float* packed) {
  int padded = round_up(out, LANES);
  auto value = [&](int i, int j) { return i < in && j < out ? matrix[(size_t)i * out + j] : 0.0f; };
  for (int from = 0; from < padded; from += MAX_VECTORS * LANES) {
    int columns = padded - from < MAX_VECTORS * LANES ? padded - from : MAX_VECTORS * LANES;
    for (int lane = 0; lane < lanes_of(in, precision); lane++)
      for (int j = from; j < from + columns; j++, packed++)
        if (precision == BF16) {
          uint32_t both = bf16_bits(value(2 * lane, j)) | bf16_bits(value(2 * lane + 1, j)) << 16;
          memcpy(packed, &both, 4);
        } else {
          *packed = value(lane, j);
        }
  }
}

// sum + x * column; `x` is one lane of a row, for all columns.
template <Precision PRECISION>
inline Vec multiply_add(Vec sum, const float* x, Vec column) {
#if defined(__AVX512BF16__)
  if (PRECISION == BF16) {
    int both;
    memcpy(&both, x, 4);
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)column);
  }
#endif
  return sum + all(*x) * column;
}

// The first `in` floats of a row as lanes of bf16; the rest of the last vector of lanes is zero.
inline void to_bf16(const float* from, int in, float* to) {
#if defined(__AVX512BF16__)
  for (; in > 0; from += 2 * LANES, to += LANES, in -= 2 * LANES) {
    int more = in - LANES;
    __mmask16 low = in >= LANES ? 0xffff : (1 << in) - 1;
    __mmask16 high = more >= LANES ? 0xffff : more > 0 ? (1 << more) - 1 : 0;
    store(to, (Vec)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, from + LANES),
                                       _mm512_maskz_loadu_ps(low, from)));
  }
#else
  (void)from, (void)in, (void)to;
#endif
}

// One operand of a sum of products: for each row a vector of length `in`, and a packed matrix.
struct Term {
  const float* const* row;  // [rows]
  const float* matrix;
  int in;
  const float* zeros;  // leading rows that are this pointer add nothing; null if there is none
};

// A piece of a matrix that stays in the first cache while some rows are multiplied with it.
constexpr int CHUNK = 96;         // lanes, times MAX_VECTORS vectors
constexpr int ROWS_AT_ONCE = 48;  // whose sums stay there, too

// The inputs of a row in the chunk that begins with lane `first`, in bf16.
inline int inputs_of(int in, int first) {
  return in - 2 * first < 2 * CHUNK ? in - 2 * first : 2 * CHUNK;
}

// sums[r][v] += the first `count` lanes of row r times the matrix.
template <Precision PRECISION, int ROWS, int VECTORS>
inline void add_products(const float* const* row, int count, const float* matrix,
                         Vec (&sums)[ROWS][VECTORS]) {
  const float* x[ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++) x[r] = row[r];
  for (int i = 0; i < count; i++, matrix += VECTORS * LANES) {
    Vec column[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) column[v] = load(matrix + v * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++)
        sums[r][v] = multiply_add<PRECISION>(sums[r][v], x[r] + i, column[v]);
    }
  }
}

// Adds the products of ROWS rows with a chunk to `out`; the first chunk starts from the bias.
template <Precision PRECISION, int ROWS, int VECTORS>
inline void add_chunk(const float* const* row, int count, const float* matrix, const float* bias,
                      bool is_first, int from, float* const* out) {
  Vec sums[ROWS][VECTORS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
      sums[r][v] = !is_first ? load(out[r] + from + v * LANES)
                   : bias    ? load(bias + from + v * LANES)
                             : Vec{};
  add_products<PRECISION, ROWS, VECTORS>(row, count, matrix, sums);
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) store(out[r] + from + v * LANES, sums[r][v]);
}

// The sums of VECTORS vectors of columns, from column `from` on, of the rows from first_row to end,
// of which there are at most ROWS_AT_ONCE.
template <Precision PRECISION, int VECTORS>
inline void sum_of_columns(const Term* term, int terms, int first_row, int end, int from,
                           const float* bias, float* const* out) {
  const float* row[ROWS_AT_ONCE];  // of a chunk
  float pairs[PRECISION == BF16 ? ROWS_AT_ONCE : 1][CHUNK];
  for (int t = 0; t < terms; t++) {
    int begin = first_row, in = lanes_of(term[t].in, PRECISION);
    while (t > 0 && begin < end && term[t].row[begin] == term[t].zeros) begin++;
    const float* matrix = term[t].matrix + (size_t)from * in;
    for (int first = 0; first < in; first += CHUNK) {
      int count = in - first < CHUNK ? in - first : CHUNK;
      const float* chunk = matrix + (size_t)first * VECTORS * LANES;
      bool is_first = t == 0 && first == 0;
      for (int r = begin; r < end; r++) {
        if (PRECISION == BF16)
          to_bf16(term[t].row[r] + 2 * first, inputs_of(term[t].in, first), pairs[r - first_row]);
        row[r - first_row] = PRECISION == BF16 ? pairs[r - first_row] : term[t].row[r] + first;
      }
      int tiles = (end - begin + MAX_ROWS - 1) / MAX_ROWS, at = begin;
      for (int tile = 0; tile < tiles; tile++) {
        int height = (end - at + (tiles - tile) - 1) / (tiles - tile);  // even tiles
        const float* const* some = row + (at - first_row);
#define ADD(n) add_chunk<PRECISION, n, VECTORS>(some, count, chunk, bias, is_first, from, out + at)
        switch (height) {
          case 6: ADD(6); break;
          case 5: ADD(5); break;
          case 4: ADD(4); break;
          case 3: ADD(3); break;
          case 2: ADD(2); break;
          case 1: ADD(1); break;
        }
#undef ADD
        at += height;
      }
    }
  }
}

template <Precision PRECISION>
inline void sum_in(const Term* term, int terms, int rows, int width, const float* bias,
                   float* const* out) {
  for (int first = 0; first < rows; first += ROWS_AT_ONCE) {
    int end = rows - first < ROWS_AT_ONCE ? rows : first + ROWS_AT_ONCE, from = 0;
    for (; from + MAX_VECTORS * LANES <= width; from += MAX_VECTORS * LANES)
      sum_of_columns<PRECISION, MAX_VECTORS>(term, terms, first, end, from, bias, out);
    switch ((width - from) / LANES) {
      case 3: sum_of_columns<PRECISION, 3>(term, terms, first, end, from, bias, out); break;
      case 2: sum_of_columns<PRECISION, 2>(term, terms, first, end, from, bias, out); break;
      case 1: sum_of_columns<PRECISION, 1>(term, terms, first, end, from, bias, out); break;
    }
  }
}

#if defined(__AMX_BF16__)
#include "matmul_amx.h"
#endif

// out[r] = bias + sum over terms of row_r times matrix, for at least one term. `width` is a whole
// number of vectors; `bias` may be null. The sums of a row do not depend on the other rows.
inline void sum_of_products(const Term* term, int terms, int rows, int width, const float* bias,
                            float* const* out, Precision precision) {
#if defined(__AMX_BF16__)
  if (precision == BF16) return sum_in_tiles(term, terms, rows, width, bias, out);
#endif
  if (OF_BLOCKS == BF16 && precision == BF16)
    sum_in<OF_BLOCKS>(term, terms, rows, width, bias, out);
  else
    sum_in<FLOAT32>(term, terms, rows, width, bias, out);
}
