// Exits that add up: a row is scored by the sum of what it reads at the exits up to its own.
#pragma once

// Reads exit `e` for the rows of a tile that come to it next; `state(r)` is the last position of a
// row, or null for a row that does not read it now.
template <class StateOf>
void read_exit(const Model& m, ReadoutScratch& s, int e, int rows, StateOf state) {
  const Exits& exits = m.exits;
  int width = m.shape.width, row[TILE_ROWS], count = 0;
  size_t stride = m.stride, hidden_stride = exits.hidden_stride;
  for (int r = 0; r < rows; r++) {
    const float* x = s.next[r] == e ? state(r) : nullptr;
    if (!x) continue;
    s.state[count] = x;
    s.rows[count] = s.normed + count * stride;
    s.out[count] = s.hidden + count * hidden_stride;
    norm_row<STORE>(x, width, exits.plain, 1.0f, s.normed + count * stride);
    row[count++] = r;
  }
  if (!count) return;
  Term up{s.rows, exits.up[e], width, nullptr};
  sum_of_products(&up, 1, count, exits.hidden_stride, nullptr, s.out, FLOAT32);
  for (int i = 0; i < count; i++) {
    float* hidden = s.hidden + i * hidden_stride;
    for (size_t j = 0; j < hidden_stride; j += LANES)
      store(hidden + j, larger(load(hidden + j), Vec{}));
    s.rows[i] = hidden;
    s.out[i] = s.normed + i * stride;
  }
  Term down{s.rows, exits.down[e], exits.hidden, nullptr};
  sum_of_products(&down, 1, count, m.stride, nullptr, s.out, FLOAT32);
  for (int i = 0; i < count; i++) {
    float* added = s.normed + i * stride;
    for (size_t j = 0; j < stride; j += LANES)
      store(added + j, load(added + j) + load(s.state[i] + j));
    norm_row<ADD>(added, width, exits.norm[e], 1.0f, s.sum + row[i] * stride);
    s.next[row[i]]++;
  }
}

// The number of the exit that stands behind `depth` blocks and adds up; -1: there is none.
int added_exit(const Model& m, int depth) {
  if (!m.exits.hidden) return -1;
  int e = m.exits.of(depth);
  return m.exits.depth[e] == depth ? e : -1;
}

// Reads the exit behind `depth` blocks, if there is one, for the rows that leave there or later.
// A row that has left at that exit without its last blocks reads the state that it has.
void read_exit_behind(const Model& m, Workspace& w, int depth, const int* positions, int rows) {
  int e = added_exit(m, depth);
  if (e < 0) return;
  size_t row_floats = (size_t)m.shape.window * m.stride;
  read_exit(m, w.readout, e, rows, [&](int r) -> const float* {
    if (!positions[r] || e > w.readout.last[r]) return nullptr;
    return w.x + r * row_floats + (size_t)(positions[r] - 1) * m.stride;
  });
}
