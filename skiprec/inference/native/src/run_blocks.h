// Runs the blocks of a tile of rows: the first ones before the policy decides, then the kept ones.
#pragma once

// Where row `r` of the tile has its rows of early block `l`.
float* early_rows(const Model& m, float* buffer, int l, int r) {
  return buffer + ((size_t)l * m.tile + r) * m.shape.window * m.stride;
}

PlannedBlock& early_plan(const Model& m, Workspace& w, int l, int r) {
  return w.early.planned[(size_t)r * m.shape.reads_after + l];
}

void copy_rows(Positions positions, const float* from, float* to, int stride) {
  for (int i = 0; i < positions.count; i++) {
    size_t at = (size_t)positions.at[i] * stride;
    memcpy(to + at, from + at, stride * sizeof(float));
  }
}

// Block `l` for some users of a tile: into their hidden rows, and from there onto their rows.
void run_conv_block(const Model& m, Workspace& w, int l, const ConvInput* middle,
                    const ConvInput* out, int users, int positions) {
  const ConvBlock& block = m.conv_blocks[l];
  int cursor[TILE_ROWS];
  convolve<STORE_RELU>(middle, users, positions, m.shape.width, m.stride, block.dilation,
                       block.conv[0], 1.0f, w.conv, cursor);
  convolve<ADD_RELU>(out, users, positions, m.shape.width, m.stride, 2 * block.dilation,
                     block.conv[1], block.scale, w.conv, cursor);
}

// Runs the first blocks for the rows whose policy reads their state, as far as the last position
// needs them. The states stand apart, because a row that goes deeper needs the other positions,
// too, and computes them from the rows in `w.x`.
void run_early_blocks(const Model& m, Workspace& w, const int* positions, int rows) {
  const Shape& s = m.shape;
  size_t row_floats = (size_t)s.window * m.stride;
  int count = s.reads_after;
  for (int r = 0; r < rows; r++)
    if (w.early.has_run[r]) {
      for (int l = 0; l < count; l++) w.kept[l] = l;
      plan_positions(m.conv_blocks, w.kept, count, positions[r],
                     w.early.plan + (size_t)r * count * 2 * s.window, w.need,
                     &early_plan(m, w, 0, r));
    }
  for (int l = 0; l < count; l++) {
    ConvInput middle[TILE_ROWS], out[TILE_ROWS];
    int users = 0, longest = 0;
    for (int r = 0; r < rows; r++) {
      if (!w.early.has_run[r]) continue;
      const PlannedBlock& planned = early_plan(m, w, l, r);
      const float* before =
          l ? early_rows(m, w.early.state, l - 1, r) : w.x + (size_t)r * row_floats;
      float* state = early_rows(m, w.early.state, l, r);
      float* hidden = early_rows(m, w.early.hidden, l, r);
      copy_rows(planned.out, before, state, m.stride);
      middle[users] = {before, hidden, planned.middle};
      out[users++] = {hidden, state, planned.out};
      longest = positions[r] > longest ? positions[r] : longest;
    }
    run_conv_block(m, w, l, middle, out, users, longest);
    if (int e = added_exit(m, l + 1); e >= 0)
      read_exit(m, w.readout, e, rows, [&](int r) -> const float* {
        if (!w.early.has_run[r]) return nullptr;
        return early_rows(m, w.early.state, l, r) + (size_t)(positions[r] - 1) * m.stride;
      });
  }
}

// Takes the positions of `others` out of a rising list, in place.
Positions without(Positions list, Positions others) {
  int* to = (int*)list.at;
  int kept = 0;
  for (int i = 0, j = 0; i < list.count; i++) {
    while (j < others.count && others.at[j] < list.at[i]) j++;
    if (j == others.count || others.at[j] != list.at[i]) to[kept++] = list.at[i];
  }
  return {list.at, kept};
}

// Runs the kept blocks of a tile of rows, block by block, so that the rows share a block's weights
// while the cache holds them. What the early blocks have computed already is taken from there.
void run_conv_blocks(const Model& m, Workspace& w, const int* positions, int rows) {
  const Shape& s = m.shape;
  size_t row_floats = (size_t)s.window * m.stride, row_bytes = m.stride * sizeof(float);
  int done[TILE_ROWS] = {}, early = s.reads_after;
  bool has_left[TILE_ROWS];
  for (int r = 0; r < rows; r++) {
    const uint8_t* keep = w.keep + (size_t)r * s.blocks;
    int count = 0;
    for (int l = 0; l < s.blocks; l++)
      if (keep[l]) w.kept[count++] = l;
    has_left[r] = !positions[r] || (w.early.has_run[r] && count == early);
    if (has_left[r]) {
      size_t last = (size_t)(positions[r] - 1) * m.stride;
      if (positions[r])
        memcpy(w.x + (size_t)r * row_floats + last,
               early_rows(m, w.early.state, early - 1, r) + last, row_bytes);
      continue;
    }
    PlannedBlock* planned = w.planned + (size_t)r * s.blocks;
    plan_positions(m.conv_blocks, w.kept, count, positions[r],
                   w.plan + (size_t)r * s.blocks * 2 * s.window, w.need, planned);
    for (int l = 0; w.early.has_run[r] && l < early; l++) {
      planned[l].middle = without(planned[l].middle, early_plan(m, w, l, r).middle);
      planned[l].out = without(planned[l].out, early_plan(m, w, l, r).out);
    }
  }
  for (int l = 0; l < s.blocks; l++) {
    ConvInput middle[TILE_ROWS], out[TILE_ROWS];
    int users = 0, longest = 0;
    for (int r = 0; r < rows; r++) {
      if (!w.keep[(size_t)r * s.blocks + l] || has_left[r]) continue;
      const PlannedBlock& planned = w.planned[(size_t)r * s.blocks + done[r]++];
      float *x = w.x + r * row_floats, *hidden = w.hidden + r * row_floats;
      if (w.early.has_run[r] && l < early) hidden = early_rows(m, w.early.hidden, l, r);
      middle[users] = {x, hidden, planned.middle};
      out[users++] = {hidden, x, planned.out};
      longest = positions[r] > longest ? positions[r] : longest;
    }
    run_conv_block(m, w, l, middle, out, users, longest);
    for (int r = 0; r < rows && l < early; r++) {
      if (!w.early.has_run[r] || has_left[r]) continue;
      copy_rows(early_plan(m, w, l, r).out, early_rows(m, w.early.state, l, r),
                w.x + (size_t)r * row_floats, m.stride);
    }
    read_exit_behind(m, w, l + 1, positions, rows);
  }
}

AttentionShape attention_shape(const Model& m) {
  const Shape& s = m.shape;
  return {s.width, m.stride, s.heads, s.width / s.heads};
}

// The first blocks of the rows whose policy reads their state, at all positions.
void run_early_attention(const Model& m, Workspace& w, const int* positions, int rows) {
  size_t row_floats = (size_t)m.shape.window * m.stride;
  for (int l = 0; l < m.shape.reads_after; l++) {
    for (int r = 0; r < rows; r++)
      if (w.early.has_run[r])
        run_attention_block(w.x + r * row_floats, attention_shape(m), positions[r], 0,
                            m.attention_blocks[l], w.attention);
    if (int e = added_exit(m, l + 1); e >= 0)
      read_exit(m, w.readout, e, rows, [&](int r) -> const float* {
        if (!w.early.has_run[r]) return nullptr;
        return w.x + r * row_floats + (size_t)(positions[r] - 1) * m.stride;
      });
  }
}

void run_attention_blocks(const Model& m, Workspace& w, const int* positions, int rows) {
  const Shape& s = m.shape;
  AttentionShape shape = attention_shape(m);
  int left[TILE_ROWS] = {};  // kept blocks that a row has not run yet
  for (int r = 0; r < rows; r++)
    for (int l = 0; l < s.blocks; l++) left[r] += w.keep[(size_t)r * s.blocks + l];
  for (int l = 0; l < s.blocks; l++) {
    for (int r = 0; r < rows; r++) {
      if (!w.keep[(size_t)r * s.blocks + l] || !positions[r]) continue;
      if (w.early.has_run[r] && l < s.reads_after) {
        left[r]--;
        continue;
      }
      int first_out = --left[r] ? 0 : positions[r] - 1;
      run_attention_block(w.x + (size_t)r * s.window * m.stride, shape, positions[r], first_out,
                          m.attention_blocks[l], w.attention);
    }
    read_exit_behind(m, w, l + 1, positions, rows);
  }
}
