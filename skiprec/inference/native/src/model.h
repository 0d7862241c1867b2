// A model in memory: the weights of the network, packed for one level.
#pragma once

// Memory that is given back as a whole. It comes in slabs, each twice as large as the one before,
// so that the weights of a large model lie on few pages.
struct Memory {
  void** slab;
  int count, room;
  char* free;
  size_t left, next_size;
};

constexpr size_t LINE = 64, HUGE_PAGE = 2 << 20, LARGEST_SLAB = 8 * HUGE_PAGE;

inline bool add_slab(Memory& memory, size_t bytes) {
  if (memory.count == memory.room) {
    int room = memory.room ? 2 * memory.room : 16;
    void** slab = (void**)realloc(memory.slab, room * sizeof(void*));
    if (!slab) return false;
    memory.slab = slab;
    memory.room = room;
  }
  size_t size = memory.next_size ? memory.next_size : HUGE_PAGE / 32;
  memory.next_size = 2 * size < LARGEST_SLAB ? 2 * size : LARGEST_SLAB;
  size = size < bytes ? bytes : size;
  size_t alignment = size < HUGE_PAGE ? LINE : HUGE_PAGE;
  size = (size + alignment - 1) / alignment * alignment;
  void* slab = aligned_alloc(alignment, size);
  if (!slab) return false;
#if defined(MADV_HUGEPAGE)
  if (alignment == HUGE_PAGE) madvise(slab, size, MADV_HUGEPAGE);
#endif
  memset(slab, 0, size);
  memory.slab[memory.count++] = slab;
  memory.free = (char*)slab;
  memory.left = size;
  return true;
}

// Zeroed memory of `bytes`, aligned to 64; null when there is none.
inline void* take(Memory& memory, size_t bytes) {
  size_t size = (bytes + LINE - 1) / LINE * LINE + LINE;  // a vector may be read beyond the end
  if (memory.left < size && !add_slab(memory, size)) return nullptr;
  void* result = memory.free;
  memory.free += size;
  memory.left -= size;
  return result;
}

inline float* take_floats(Memory& memory, size_t count) {
  return (float*)take(memory, count * sizeof(float));
}

inline void free_all(Memory& memory) {
  for (int i = 0; i < memory.count; i++) free(memory.slab[i]);
  free(memory.slab);
  memory = {};
}

inline int num_outputs(const Shape& s) { return s.rule == CHEAPEST_SET ? s.sets : 2 * s.blocks; }

inline size_t conv_floats(size_t width) { return TAPS * width * width + 3 * width; }

// The number of weights in the order in which `Reader` takes them.
inline size_t count_weights(const Shape& s) {
  size_t width = s.width, items = s.items, policy = s.policy_width, total = items * width;
  if (s.backbone != CONVOLUTIONS) total += (size_t)s.positions_table * width;
  if (s.rule != RUN_ALL && s.reads_after) {
    total += (width + 2) * policy + (policy + 1) * num_outputs(s);
  } else if (s.rule != RUN_ALL) {
    total += s.policy_has_table ? items * policy : (width + 1) * policy;
    total += 2 * conv_floats(policy) + (policy + 1) * num_outputs(s);
  }
  size_t block =
      s.backbone == CONVOLUTIONS ? 2 * conv_floats(width) + 1 : 5 * width * width + 6 * width + 2;
  total += s.blocks * block;
  total += (size_t)s.norms * 2 * width * (1 + s.readout_width);
  return total + items * width + items;
}

// Where rows leave the network: behind some depths, each with a norm of its own. Exits that add up
// also have a hidden layer each, and a row is scored by the sum of their readouts, up to its own.
struct Exits {
  const Norm* norm;
  const int32_t* depth;
  int count, hidden, hidden_stride;  // channels of the hidden layer; 0: exits do not add up
  float *const *up, *const *down;    // packed matrices of each exit
  Norm plain;

  // The exit of a row that runs `size` blocks: at this depth, or the next.
  int of(int size) const {
    int e = 0;
    while (e < count - 1 && depth[e] < size) e++;
    return e;
  }
};

// Takes the weights one after the other and packs them.
struct Reader {
  Memory& memory;
  const float* at;
  bool failed;

  float* floats(size_t count) {
    float* result = take_floats(memory, count);
    failed |= !result;
    return result;
  }

  const float* next(size_t count) {
    const float* result = at;
    at += count;
    return result;
  }

  float number() { return *next(1); }

  // Rows of `width` floats, each padded to whole vectors.
  float* rows(size_t count, int width) {
    int stride = round_up(width, LANES);
    const float* from = next(count * width);
    float* to = floats(count * stride);
    if (to)
      for (size_t i = 0; i < count; i++) memcpy(to + i * stride, from + i * width, width * 4);
    return to;
  }

  float* vector(int width) { return rows(1, width); }

  float* matrix(int in, int out, Precision precision) {
    const float* from = next((size_t)in * out);
    float* to = floats(packed_floats(in, out, precision));
    if (to) pack(from, in, out, precision, to);
    return to;
  }

  Norm norm(int width) {
    const float* gamma = vector(width);
    return {gamma, vector(width)};
  }

  // The norms of the exits, and the depths of these.
  Exits exits(const Shape& s, const int32_t* depths) {
    Exits result{};
    result.count = s.norms;
    Norm* norms = (Norm*)take(memory, (size_t)(s.norms + 1) * sizeof(Norm));
    int32_t* copied = (int32_t*)take(memory, (size_t)(s.norms + 1) * 4);
    failed |= !norms || !copied;
    if (failed) return result;
    for (int e = 0; e < s.norms; e++) norms[e] = norm(s.width);
    if (s.norms) memcpy(copied, depths, (size_t)s.norms * 4);
    result.norm = norms;
    result.depth = copied;
    result.hidden = s.readout_width;
    result.hidden_stride = round_up(s.readout_width, LANES);
    if (!s.readout_width) return result;
    float** up = (float**)take(memory, (size_t)s.norms * sizeof(float*));
    float** down = (float**)take(memory, (size_t)s.norms * sizeof(float*));
    failed |= !up || !down;
    for (int e = 0; !failed && e < s.norms; e++) {
      up[e] = matrix(s.width, s.readout_width, FLOAT32);
      down[e] = matrix(s.readout_width, s.width, FLOAT32);
    }
    result.up = up;
    result.down = down;
    result.plain = plain_norm(s.width);
    return result;
  }

  // LayerNorm without weights of its own.
  Norm plain_norm(int width) {
    float *gamma = floats(round_up(width, LANES)), *beta = floats(round_up(width, LANES));
    for (int j = 0; gamma && beta && j < width; j++) gamma[j] = 1;
    return {gamma, beta};
  }

  Conv conv(int width, Precision precision) {
    Conv result;
    result.precision = precision;
    for (int tap = TAPS - 1; tap >= 0; tap--) result.taps[tap] = matrix(width, width, precision);
    result.bias = vector(width);
    result.norm = norm(width);
    return result;
  }

  Policy policy(const Shape& s, const int32_t* set_sizes) {
    Policy result{};
    result.rule = s.rule;
    if (s.rule == RUN_ALL) return result;
    result.width = s.policy_width;
    result.stride = round_up(s.policy_width, LANES);
    result.outputs = num_outputs(s);
    result.reads_after = s.reads_after;
    if (s.policy_has_table) {
      result.table = rows(s.items, s.policy_width);
    } else {
      result.project = matrix(s.width, s.policy_width, FLOAT32);
      if (s.reads_after) result.of_length = vector(s.policy_width);
      result.project_bias = vector(s.policy_width);
    }
    if (s.reads_after) {
      result.plain = plain_norm(s.width);
    } else {
      for (Conv& layer : result.conv) layer = conv(s.policy_width, FLOAT32);
    }
    result.head = matrix(s.policy_width, result.outputs, FLOAT32);
    result.head_bias = vector(result.outputs);
    int32_t* sizes = (int32_t*)take(memory, (size_t)(s.sets + 1) * 4);
    if (sizes && s.sets) memcpy(sizes, set_sizes, (size_t)s.sets * 4);
    failed |= !sizes;
    result.set_sizes = sizes;
    return result;
  }

  ConvBlock conv_block(const Shape& s, int dilation) {
    ConvBlock result;
    for (Conv& layer : result.conv) layer = conv(s.width, OF_BLOCKS);
    result.dilation = dilation;
    result.scale = number();
    return result;
  }

  // A projection whose heads are padded to whole vectors, times `factor`.
  float* heads(const float* weight, int first, const Shape& s, float factor) {
    int channels = s.width / s.heads, padded = round_up(channels, LANES), wide = s.heads * padded;
    float* spread = floats((size_t)s.width * wide);
    float* to = floats(packed_floats(s.width, wide, OF_BLOCKS));
    if (!spread || !to) return to;
    for (int i = 0; i < s.width; i++)
      for (int h = 0; h < s.heads; h++)
        for (int c = 0; c < channels; c++)
          spread[(size_t)i * wide + h * padded + c] =
              factor * weight[(size_t)i * 3 * s.width + first + h * channels + c];
    pack(spread, s.width, wide, OF_BLOCKS, to);
    return to;
  }

  AttentionBlock attention_block(const Shape& s) {
    AttentionBlock result;
    result.is_authors_form = s.backbone == AUTHORS_ATTENTION;
    result.norm[0] = norm(s.width);
    const float* weight = next((size_t)3 * s.width * s.width);
    float factor = 1.0f / __builtin_sqrtf((float)(s.width / s.heads));
    for (int m = 0; m < 3; m++)
      result.project[m] = heads(weight, m * s.width, s, m == 0 ? factor : 1.0f);
    result.scale[0] = number();
    result.norm[1] = norm(s.width);
    for (int layer = 0; layer < 2; layer++) {
      result.matrix[layer] = matrix(s.width, s.width, OF_BLOCKS);
      result.bias[layer] = vector(s.width);
    }
    result.scale[1] = number();
    return result;
  }

  ItemTable item_table(const Shape& s) {
    ItemTable t;
    t.items = s.items;
    t.width = s.width;
    t.stride = round_up(s.width, LANES);
    t.quads = (s.width + 3) / 4;
    const float* vectors = rows(s.items, s.width);
    const float* bias = next(s.items);
    size_t groups = ((size_t)s.items + ITEMS_OF_GROUP - 1) / ITEMS_OF_GROUP;
    size_t padded = groups * ITEMS_OF_GROUP, group_bytes = (size_t)t.quads * ITEMS_OF_GROUP * 4;
    int8_t* coded = (int8_t*)take(memory, groups * group_bytes);
    int32_t* correction = (int32_t*)take(memory, padded * 4);
    float *step = floats(padded), *length = floats(padded), *error = floats(padded),
          *padded_bias = floats(padded);
    failed |= !coded || !correction;
    if (failed) return t;
    for (int item = 0; item < s.items; item++) {
      const float* w = vectors + (size_t)item * t.stride;
      float top = 0, squares = 0, errors = 0;
      for (int j = 0; j < s.width; j++) {
        float size = __builtin_fabsf(w[j]);
        top = size > top ? size : top;
      }
      step[item] = top > 0 ? top / 127.0f : 1.0f;
      int8_t* to =
          coded + (size_t)(item / ITEMS_OF_GROUP) * group_bytes + (item % ITEMS_OF_GROUP) * 4;
      int total = 0;
      for (int j = 0; j < s.width; j++) {
        int code = (int)__builtin_rintf(w[j] / step[item]);
        code = code > 127 ? 127 : code < -127 ? -127 : code;
        to[(size_t)(j / 4) * ITEMS_OF_GROUP * 4 + j % 4] = (int8_t)code;
        total += code;
        float difference = w[j] - code * step[item];
        squares += w[j] * w[j];
        errors += difference * difference;
      }
      correction[item] = -QUERY_OFFSET * total;
      length[item] = __builtin_sqrtf(squares) * 1.0001f;
      error[item] = __builtin_sqrtf(errors) * 1.0001f;
      padded_bias[item] = bias[item];
    }
    t.vectors = vectors;
    t.bias = padded_bias;
    t.coded = coded;
    t.correction = correction;
    t.step = step;
    t.length = length;
    t.error = error;
    t.padded_bias = padded_bias;
    return t;
  }
};
