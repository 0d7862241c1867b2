// Products of a few rows with a packed matrix; the only place that multiplies float matrices.
#pragma once

// A packed matrix [in, out]: tiles of MAX_VECTORS vectors of columns, each tile [in][its columns].
// Columns are padded with zeros to whole vectors.
inline size_t packed_floats(int in, int out) { return (size_t)in * round_up(out, LANES); }

inline void pack(const float* matrix, int in, int out, float* packed) {
  int padded = round_up(out, LANES);
  for (int from = 0; from < padded; from += MAX_VECTORS * LANES) {
    int columns = padded - from < MAX_VECTORS * LANES ? padded - from : MAX_VECTORS * LANES;
    for (int i = 0; i < in; i++)
      for (int j = 0; j < columns; j++)
        *packed++ = from + j < out ? matrix[(size_t)i * out + from + j] : 0.0f;
  }
}

// One operand of a sum of products: for each row a vector of length `in`, and a packed matrix.
struct Term {
  const float* const* row;  // [rows]
  const float* matrix;
  int in;
  const float* zeros;  // leading rows that are this pointer add nothing; null if there is none
};

// A piece of a matrix that stays in the first cache while some rows are multiplied with it.
constexpr int CHUNK = 96;       // rows of the matrix, times MAX_VECTORS vectors
constexpr int ROWS_AT_ONCE = 48;  // whose sums stay there, too

// sums[r][v] += row_r[first..first + count) times the matrix' rows from `first` on.
template <int ROWS, int VECTORS>
inline void add_products(const float* const* row, int first, int count, const float* matrix,
                         Vec (&sums)[ROWS][VECTORS]) {
  const float* x[ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++) x[r] = row[r] + first;
  for (int i = 0; i < count; i++, matrix += VECTORS * LANES) {
    Vec column[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) column[v] = load(matrix + v * LANES);
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
      Vec value = all(x[r][i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) sums[r][v] += value * column[v];
    }
  }
}

// Adds the products of ROWS rows with a chunk to `out`; the first chunk starts from the bias.
template <int ROWS, int VECTORS>
inline void add_chunk(const Term& term, int first_row, int first, int count, const float* matrix,
                      const float* bias, bool is_first, int from, float* const* out) {
  Vec sums[ROWS][VECTORS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++)
      sums[r][v] = !is_first ? load(out[first_row + r] + from + v * LANES)
                   : bias    ? load(bias + from + v * LANES)
                             : Vec{};
  add_products<ROWS, VECTORS>(term.row + first_row, first, count, matrix, sums);
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) store(out[first_row + r] + from + v * LANES, sums[r][v]);
}

// The sums of VECTORS vectors of columns, from column `from` on, of the rows from first_row to end.
template <int VECTORS>
inline void sum_of_columns(const Term* term, int terms, int first_row, int end, int from,
                           const float* bias, float* const* out) {
  for (int t = 0; t < terms; t++) {
    int begin = first_row;
    while (t > 0 && begin < end && term[t].row[begin] == term[t].zeros) begin++;
    const float* matrix = term[t].matrix + (size_t)from * term[t].in;
    for (int first = 0; first < term[t].in; first += CHUNK) {
      int count = term[t].in - first < CHUNK ? term[t].in - first : CHUNK;
      const float* chunk = matrix + (size_t)first * VECTORS * LANES;
      bool is_first = t == 0 && first == 0;
      int tiles = (end - begin + MAX_ROWS - 1) / MAX_ROWS, at = begin;
      for (int tile = 0; tile < tiles; tile++) {
        int height = (end - at + (tiles - tile) - 1) / (tiles - tile);  // even tiles
#define ADD(n) add_chunk<n, VECTORS>(term[t], at, first, count, chunk, bias, is_first, from, out)
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

// out[r] = bias + sum over terms of row_r times matrix, for at least one term. `width` is a whole
// number of vectors; `bias` may be null. The sums of a row do not depend on the other rows.
inline void sum_of_products(const Term* term, int terms, int rows, int width, const float* bias,
                            float* const* out) {
  for (int first = 0; first < rows; first += ROWS_AT_ONCE) {
    int end = rows - first < ROWS_AT_ONCE ? rows : first + ROWS_AT_ONCE, from = 0;
    for (; from + MAX_VECTORS * LANES <= width; from += MAX_VECTORS * LANES)
      sum_of_columns<MAX_VECTORS>(term, terms, first, end, from, bias, out);
    switch ((width - from) / LANES) {
      case 3: sum_of_columns<3>(term, terms, first, end, from, bias, out); break;
      case 2: sum_of_columns<2>(term, terms, first, end, from, bias, out); break;
      case 1: sum_of_columns<1>(term, terms, first, end, from, bias, out); break;
    }
  }
}
