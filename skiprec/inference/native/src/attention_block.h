// Blocks of causal self-attention (SASRec+), in the plain form and in that of the released code.
//
//     a = s1 * attention(norm(x));  x += a + s2 * feed_forward(norm(x + a))
//
//     released code:  n = norm(x);  y = norm(n + s1 * attention(n));  x = y + s2 * feed_forward(y)
#pragma once

// The channels of a head are padded with zeros to whole vectors, in queries, keys and values.
struct AttentionBlock {
  Norm norm[2];
  const float* project[3];  // queries (already divided by the root of the channels), keys, values
  float scale[2];
  const float *matrix[2], *bias[2];  // of the feed-forward net
  bool is_authors_form;
};

struct AttentionShape {
  int width, stride, heads, channels;  // channels of a head, not padded
  int padded_channels() const { return round_up(channels, LANES); }
};

// Buffers of one user of `positions` rows, each `stride` or heads * padded_channels floats wide.
struct AttentionScratch {
  float *normed, *query, *key, *value;  // rows
  float* keys_by_channel;               // packed [channels, positions] of one head
  float* weights;                       // [MAX_ROWS, positions padded to vectors]
  float *added, *inner;                 // rows
  const float** rows;
  float** out;
};

// Softmax over the first `count` of a row of scores; the rest of the row up to `padded` becomes 0.
// Returns 1 / sum, by which the caller multiplies.
inline float unscaled_softmax(float* score, int count, int padded) {
  for (int j = count; j < padded; j++) score[j] = -1e30f;
  Vec top = load(score);
  for (int j = LANES; j < padded; j += LANES) top = larger(top, load(score + j));
  Vec highest = all(largest(top)), total{};
  for (int j = 0; j < padded; j += LANES) {
    Vec weight = exp_of_negative(load(score + j) - highest);
    store(score + j, weight);
    total += weight;
  }
  return 1.0f / sum(total);
}

// normed -> added: attention of the queries first_query.. over all rows, without padding.
inline void attend(const AttentionBlock& block, AttentionShape shape, int positions,
                   int first_query, AttentionScratch& s) {
  int channels = shape.padded_channels(), wide = shape.heads * channels;
  int padded_positions = round_up(positions, LANES), queries = positions - first_query;
  for (int i = 0; i < positions; i++) s.rows[i] = s.normed + (size_t)i * shape.stride;
  float* const target[3] = {s.query, s.key, s.value};
  for (int m = 0; m < 3; m++) {
    int skip = m == 0 ? first_query : 0;
    for (int i = skip; i < positions; i++) s.out[i] = target[m] + (size_t)i * wide;
    Term term{s.rows + skip, block.project[m], shape.width, nullptr};
    sum_of_products(&term, 1, positions - skip, wide, nullptr, s.out + skip, OF_BLOCKS);
  }
  for (int i = first_query; i < positions; i++)
    for (int j = shape.width; j < shape.stride; j++) s.added[(size_t)i * shape.stride + j] = 0.0f;
  for (int head = 0; head < shape.heads; head++) {
    int at = head * channels;
    float* packed = s.keys_by_channel;
    for (int from = 0; from < padded_positions; from += MAX_VECTORS * LANES) {
      int columns = padded_positions - from < MAX_VECTORS * LANES ? padded_positions - from
                                                                  : MAX_VECTORS * LANES;
      for (int c = 0; c < shape.channels; c++)
        for (int j = 0; j < columns; j++) {
          int key = from + j;
          *packed++ = key < positions ? s.key[(size_t)key * wide + at + c] : 0.0f;
        }
    }
    int tiles = (queries + MAX_ROWS - 1) / MAX_ROWS, query = first_query;
    for (int tile = 0; tile < tiles; tile++) {
      int rows = (positions - query + (tiles - tile) - 1) / (tiles - tile);
      for (int r = 0; r < rows; r++) {
        s.rows[r] = s.query + (size_t)(query + r) * wide + at;
        s.out[r] = s.weights + (size_t)r * padded_positions;
      }
      Term term{s.rows, s.keys_by_channel, shape.channels, nullptr};
      int seen = round_up(query + rows, LANES), tile_end = round_up(seen, MAX_VECTORS * LANES);
      if (tile_end > padded_positions) tile_end = padded_positions;
      sum_of_products(&term, 1, rows, tile_end, nullptr, s.out, FLOAT32);
      for (int r = 0; r < rows; r++) {
        float* weight = s.weights + (size_t)r * padded_positions;
        float factor = unscaled_softmax(weight, query + r + 1, seen);
        float* to = s.added + (size_t)(query + r) * shape.stride + head * shape.channels;
        for (int c = 0; c < channels; c += LANES) {
          Vec total{};
          const float* value = s.value + at + c;
          for (int key = 0; key <= query + r; key++, value += wide)
            total += all(weight[key]) * load(value);
          float mean[LANES];
          store(mean, total * all(factor));
          int used = shape.channels - c < LANES ? shape.channels - c : LANES;
          memcpy(to + c, mean, used * sizeof(float));
        }
      }
      query += rows;
    }
  }
}

// inner: rows of the feed-forward net of `normed`, from position `first` on.
inline void feed_forward(const AttentionBlock& block, AttentionShape shape, int positions,
                         int first, AttentionScratch& s) {
  int count = positions - first;
  for (int i = 0; i < count; i++) {
    s.rows[i] = s.normed + (size_t)(first + i) * shape.stride;
    s.out[i] = s.query + (size_t)i * shape.stride;
  }
  Term one{s.rows, block.matrix[0], shape.width, nullptr};
  sum_of_products(&one, 1, count, shape.stride, block.bias[0], s.out, OF_BLOCKS);
  for (int i = 0; i < count; i++) {
    float* row = s.query + (size_t)i * shape.stride;
    for (int j = 0; j < shape.stride; j += LANES) store(row + j, larger(load(row + j), Vec{}));
    s.rows[i] = row;
    s.out[i] = s.inner + (size_t)(first + i) * shape.stride;
  }
  Term two{s.rows, block.matrix[1], shape.width, nullptr};
  sum_of_products(&two, 1, count, shape.stride, block.bias[1], s.out, OF_BLOCKS);
}

// One block on the rows x[first_out..positions); all rows are read.
inline void run_attention_block(float* x, AttentionShape shape, int positions, int first_out,
                                const AttentionBlock& block, AttentionScratch& s) {
  int stride = shape.stride;
  for (int i = 0; i < positions; i++)
    norm_row<STORE>(x + (size_t)i * stride, shape.width, block.norm[0], 1.0f,
                    s.normed + (size_t)i * stride);
  attend(block, shape, positions, first_out, s);
  for (int i = first_out; i < positions; i++) {
    float *row = x + (size_t)i * stride, *added = s.added + (size_t)i * stride,
          *normed = s.normed + (size_t)i * stride;
    for (int j = 0; j < stride; j += LANES) {
      Vec a = all(block.scale[0]) * load(added + j);
      store(row + j, (block.is_authors_form ? load(normed + j) : load(row + j)) + a);
    }
    norm_row<STORE>(row, shape.width, block.norm[1], 1.0f, normed);
    if (block.is_authors_form) memcpy(row, normed, stride * sizeof(float));
  }
  feed_forward(block, shape, positions, first_out, s);
  for (int i = first_out; i < positions; i++)
    for (int j = 0; j < stride; j += LANES) {
      float* to = x + (size_t)i * stride + j;
      store(to, load(to) + all(block.scale[1]) * load(s.inner + (size_t)i * stride + j));
    }
}
