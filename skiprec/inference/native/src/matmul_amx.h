// Sums of products in bf16 by AMX: one instruction multiplies 16 rows of 32 inputs with 16 columns.
#pragma once

constexpr int TILE = 16;  // rows of a tile, each of 64 bytes

// Tiles 0 to 3 are sums of 16 rows and 16 columns each, 4 is of the rows, 5 of the matrix.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {TILE, TILE, TILE, TILE, TILE, TILE};
};

// A thread that has tiles in use pays for them at each change of context, so it gives them back.
struct UseTiles {
  UseTiles() {
    static const TileShapes shapes;
    _tile_loadconfig(&shapes);
  }
  ~UseTiles() { _tile_release(); }
};

// Tile `n` of sums += rows (tile 4) times 16 columns of a matrix of `step` bytes a row.
#define MULTIPLY(n)                           \
  if (vectors > n) {                          \
    _tile_loadd(5, matrix + n * LANES, step); \
    _tile_dpbf16ps(n, 4, 5);                  \
  }
#define ALL_TILES(what) what(0) what(1) what(2) what(3)

// 16 rows or fewer, `vectors` vectors of columns from `from` on.
inline void sum_tile(const Term* term, int terms, int first_row, int rows, int from, int vectors,
                     const float* bias, float* const* out) {
  alignas(64) float sums[TILE][MAX_VECTORS * LANES], pairs[TILE][CHUNK];
  size_t step = (size_t)vectors * LANES * sizeof(float);
  for (int v = 0; v < vectors; v++) {
    Vec start = bias ? load(bias + from + v * LANES) : Vec{};
    for (int r = 0; r < TILE; r++) store(&sums[r][v * LANES], start);
  }
#define LOAD(n) \
  if (vectors > n) _tile_loadd(n, &sums[0][n * LANES], sizeof sums[0]);
  ALL_TILES(LOAD)
#undef LOAD
  if (rows < TILE) memset(pairs[rows], 0, (TILE - rows) * sizeof pairs[0]);
  for (int t = 0; t < terms; t++) {
    int in = lanes_of(term[t].in, BF16), end = first_row + rows;
    if (t > 0 && term[t].row[end - 1] == term[t].zeros) continue;  // leading rows are the zeros
    const float* of_term = term[t].matrix + (size_t)from * in;
    for (int first = 0; first < in; first += CHUNK) {
      int count = in - first < CHUNK ? in - first : CHUNK;
      for (int r = 0; r < rows; r++)
        to_bf16(term[t].row[first_row + r] + 2 * first, inputs_of(term[t].in, first), pairs[r]);
      for (int lane = 0; lane < count; lane += TILE) {
        const float* matrix = of_term + (size_t)(first + lane) * vectors * LANES;
        _tile_loadd(4, &pairs[0][lane], sizeof pairs[0]);
        ALL_TILES(MULTIPLY)
      }
    }
  }
#define STORE(n) \
  if (vectors > n) _tile_stored(n, &sums[0][n * LANES], sizeof sums[0]);
  ALL_TILES(STORE)
#undef STORE
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < vectors; v++)
      store(out[first_row + r] + from + v * LANES, load(&sums[r][v * LANES]));
}

#undef MULTIPLY
#undef ALL_TILES

// What `sum_of_products` computes, in bf16.
inline void sum_in_tiles(const Term* term, int terms, int rows, int width, const float* bias,
                         float* const* out) {
  for (int first = 0; first < rows; first += TILE) {
    int count = rows - first < TILE ? rows - first : TILE;
    for (int from = 0; from < width; from += MAX_VECTORS * LANES) {
      int left = (width - from) / LANES;
      sum_tile(term, terms, first, count, from, left < MAX_VECTORS ? left : MAX_VECTORS, bias, out);
    }
  }
}
