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

// sums[r][v] += row_r[0..in) times columns; `stride` floats lie between two rows of `matrix`.
template <int ROWS, int VECTORS>
inline void add_products(const float* const* row, const float* matrix, int stride, int in,
                         Vec (&sums)[ROWS][VECTORS]) {
  for (int i = 0; i < in; i++) {
    Vec column[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) column[v] = load(matrix + v * LANES);
    matrix += stride;
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; r++) {
      Vec x = all(row[r][i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; v++) sums[r][v] += x * column[v];
    }
  }
}

// One operand of a sum of products: for each row a vector of length `in`, and a packed matrix.
struct Term {
  const float* const* row;  // [rows]
  const float* matrix;
  int in;
  const float* zeros;  // a row that is this pointer adds nothing; null if there is none
};

template <int ROWS>
inline bool adds_nothing(const Term& term, int first_row) {
  for (int r = 0; r < ROWS; r++)
    if (term.row[first_row + r] != term.zeros) return false;
  return true;
}

template <int ROWS, int VECTORS>
inline void tile_of_sum(const Term* term, int terms, int first_row, int from, const float* bias,
                        float* const* out) {
  Vec sums[ROWS][VECTORS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) sums[r][v] = bias ? load(bias + from + v * LANES) : Vec{};
  for (int t = 0; t < terms; t++)
    if (!adds_nothing<ROWS>(term[t], first_row))
      add_products<ROWS, VECTORS>(term[t].row + first_row, term[t].matrix + (size_t)from * term[t].in,
                                  VECTORS * LANES, term[t].in, sums);
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; v++) store(out[first_row + r] + from + v * LANES, sums[r][v]);
}

template <int ROWS>
inline void rows_of_sum(const Term* term, int terms, int first_row, int width, const float* bias,
                        float* const* out) {
  int from = 0;
  for (; from + MAX_VECTORS * LANES <= width; from += MAX_VECTORS * LANES)
    tile_of_sum<ROWS, MAX_VECTORS>(term, terms, first_row, from, bias, out);
  switch ((width - from) / LANES) {
    case 3: return tile_of_sum<ROWS, 3>(term, terms, first_row, from, bias, out);
    case 2: return tile_of_sum<ROWS, 2>(term, terms, first_row, from, bias, out);
    case 1: return tile_of_sum<ROWS, 1>(term, terms, first_row, from, bias, out);
  }
}

// out[r] = bias + sum over terms of row_r times matrix. `width` is a whole number of vectors; `bias`
// may be null. The rows are split into even tiles, so that no tile has one row beside a full one.
inline void sum_of_products(const Term* term, int terms, int rows, int width, const float* bias,
                            float* const* out) {
  int tiles = (rows + MAX_ROWS - 1) / MAX_ROWS, at = 0;
  for (int tile = 0; tile < tiles; tile++) {
    int count = (rows - at + (tiles - tile) - 1) / (tiles - tile);
    switch (count) {
      case 6: rows_of_sum<6>(term, terms, at, width, bias, out); break;
      case 5: rows_of_sum<5>(term, terms, at, width, bias, out); break;
      case 4: rows_of_sum<4>(term, terms, at, width, bias, out); break;
      case 3: rows_of_sum<3>(term, terms, at, width, bias, out); break;
      case 2: rows_of_sum<2>(term, terms, at, width, bias, out); break;
      case 1: rows_of_sum<1>(term, terms, at, width, bias, out); break;
    }
    at += count;
  }
}
