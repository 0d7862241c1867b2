// One level of the library: all kernels, compiled for one instruction set.
//
// The build compiles this file once for each level, with LEVEL and LEVEL_FUNCTION defined. It uses
// no C++ library, because inline functions of it that are compiled for a new instruction set could
// be linked into the code for an old one.
#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "kernels.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {
#include "simd.h"
#include "matmul.h"
#include "norm.h"
constexpr int TILE_ROWS = 64;           // most users that go through the network together
constexpr size_t TILE_BYTES = 1 << 19;  // of their rows: they stay in the second cache
#include "conv_block.h"
#include "attention_block.h"
#include "policy.h"
#include "top_items.h"
#include "model.h"

struct Model {
  Shape shape;
  Memory memory;
  int stride, tile;  // tile: users that go through the network together
  const float *embedding, *positions;
  Policy policy;
  ConvBlock* conv_blocks;
  AttentionBlock* attention_blocks;
  Exits exits;
  ItemTable table;
};

// What the first blocks have computed before the policy decides, for each of them and each row.
struct EarlyBlocks {
  float *state, *hidden;  // [reads_after, tile, window, stride]
  int* plan;
  PlannedBlock* planned;  // [tile, reads_after]
  uint8_t* has_run;       // [tile]
};

struct Workspace {
  const Model* model;
  Memory memory;
  float *x, *hidden;  // [tile, window, stride]
  EarlyBlocks early;
  float* last;
  uint8_t* keep;
  int* kept;
  int* every;
  int* plan;
  uint8_t* need;
  PlannedBlock* planned;
  ConvScratch conv;
  AttentionScratch attention;
  PolicyScratch policy;
  Search* search;
  uint8_t* excluded;  // [USERS_AT_ONCE, bytes of the bits]
  float* largest;
  int largest_room;
};

size_t bytes_of_bits(int items) { return (size_t)items / 8 + 1; }

void* make_model(const Shape& shape, const Lists& lists, const float* weights) {
  Model* m = (Model*)calloc(1, sizeof(Model));
  if (!m) return nullptr;
  m->shape = shape;
  m->stride = round_up(shape.width, LANES);
  size_t fitting = TILE_BYTES / ((size_t)shape.window * m->stride * sizeof(float));
  m->tile = fitting > TILE_ROWS ? TILE_ROWS : fitting < 8 ? 8 : (int)fitting;
  Reader reader{m->memory, weights, false};
  m->embedding = reader.rows(shape.items, shape.width);
  if (shape.backbone != CONVOLUTIONS)
    m->positions = reader.rows(shape.positions_table, shape.width);
  m->policy = reader.policy(shape, lists.set_sizes);
  if (shape.backbone == CONVOLUTIONS) {
    m->conv_blocks = (ConvBlock*)take(m->memory, shape.blocks * sizeof(ConvBlock));
    if (m->conv_blocks)
      for (int l = 0; l < shape.blocks; l++)
        m->conv_blocks[l] = reader.conv_block(shape, lists.dilations[l]);
    reader.failed |= !m->conv_blocks;
  } else {
    m->attention_blocks = (AttentionBlock*)take(m->memory, shape.blocks * sizeof(AttentionBlock));
    if (m->attention_blocks)
      for (int l = 0; l < shape.blocks; l++) m->attention_blocks[l] = reader.attention_block(shape);
    reader.failed |= !m->attention_blocks;
  }
  m->exits = reader.exits(shape, lists.exit_depths);
  if (!reader.failed) m->table = reader.item_table(shape);
  if (reader.failed) {
    free_all(m->memory);
    free(m);
    return nullptr;
  }
  return m;
}

void free_model(void* model) {
  if (!model) return;
  free_all(((Model*)model)->memory);
  free(model);
}

void free_workspace(void* workspace) {
  Workspace* w = (Workspace*)workspace;
  if (!w) return;
  for (int u = 0; w->search && u < USERS_AT_ONCE; u++) free(w->search[u].candidate);
  free(w->largest);
  free_all(w->memory);
  free(w);
}

void* make_workspace(const void* of_model) {
  const Model* model = (const Model*)of_model;
  const Shape& s = model->shape;
  Workspace* w = (Workspace*)calloc(1, sizeof(Workspace));
  if (!w) return nullptr;
  w->model = model;
  Memory& memory = w->memory;
  bool failed = false;
  auto bytes = [&](size_t count) {
    void* result = take(memory, count);
    failed |= !result;
    return result;
  };
  auto floats = [&](size_t count) { return (float*)bytes(count * sizeof(float)); };
  size_t tile = model->tile, window = s.window;
  size_t stride = model->stride, policy_stride = model->policy.stride;
  size_t widest = stride > policy_stride ? stride : policy_stride;
  w->x = floats(tile * window * stride);
  w->last = floats(tile * stride);
  w->keep = (uint8_t*)bytes(tile * s.blocks);
  w->kept = (int*)bytes((size_t)s.blocks * sizeof(int));
  w->every = (int*)bytes(window * sizeof(int));
  for (size_t i = 0; !failed && i < window; i++) w->every[i] = (int)i;
  w->plan = (int*)bytes(tile * s.blocks * 2 * window * sizeof(int));
  w->need = (uint8_t*)bytes(3 * window);
  w->planned = (PlannedBlock*)bytes(tile * s.blocks * sizeof(PlannedBlock));
  size_t early = s.backbone == CONVOLUTIONS ? s.reads_after : 0;
  w->early.state = floats(early * tile * window * stride);
  w->early.hidden = floats(early * tile * window * stride);
  w->early.plan = (int*)bytes(early * tile * 2 * window * sizeof(int));
  w->early.planned = (PlannedBlock*)bytes(early * tile * sizeof(PlannedBlock));
  w->early.has_run = (uint8_t*)bytes(tile);
  w->hidden = floats((s.backbone == CONVOLUTIONS ? tile : 0) * window * stride);
  w->conv.sums = floats(ROWS_AT_ONCE * widest);
  w->conv.zeros = floats(widest);
  if (s.backbone != CONVOLUTIONS) {
    size_t channels = round_up(s.width / s.heads, LANES), wide = s.heads * channels;
    size_t row = wide > stride ? wide : stride, padded = round_up(s.window, LANES);
    AttentionScratch& a = w->attention;
    a.normed = floats(window * stride);
    a.query = floats(window * row);
    a.key = floats(window * row);
    a.value = floats(window * row);
    a.keys_by_channel = floats(channels * padded);
    a.weights = floats(MAX_ROWS * padded);
    a.added = floats(window * stride);
    a.inner = floats(window * stride);
    a.rows = (const float**)bytes(window * sizeof(float*) + MAX_ROWS * sizeof(float*));
    a.out = (float**)bytes(window * sizeof(float*) + MAX_ROWS * sizeof(float*));
  }
  size_t policy_rows = s.rule == RUN_ALL ? 0 : tile * (window + 1);
  w->policy.x = floats(policy_rows * policy_stride);
  w->policy.second = floats(policy_rows * policy_stride);
  w->policy.rows = (const float**)bytes(policy_rows * sizeof(float*));
  w->policy.out = (float**)bytes(policy_rows * sizeof(float*));
  w->policy.vectors = floats(tile * policy_stride);
  w->policy.outputs = floats(tile * round_up(model->policy.outputs + 1, LANES));
  w->policy.every = w->every;
  w->search = (Search*)bytes(USERS_AT_ONCE * sizeof(Search));
  w->excluded = (uint8_t*)bytes(USERS_AT_ONCE * bytes_of_bits(s.items));
  if (failed) {
    free_workspace(w);
    return nullptr;
  }
  return w;
}

// The items of a row that the network reads: the newest `window` of them.
struct History {
  const int32_t* item;
  int positions;
};

History history_of(const Request& request, const Shape& shape, int row) {
  int64_t begin = request.begin(row), end = request.end(row);
  int64_t positions = end - begin < shape.window ? end - begin : shape.window;
  return {request.items + end - positions, (int)positions};
}

void embed(const Model& m, History history, float* x) {
  for (int i = 0; i < history.positions; i++) {
    const float* vector = m.embedding + (size_t)(history.item[i] - 1) * m.stride;
    float* row = x + (size_t)i * m.stride;
    if (!m.positions) {
      memcpy(row, vector, m.stride * sizeof(float));
      continue;
    }
    const float* place =
        m.positions + (size_t)(m.shape.positions_table - history.positions + i) * m.stride;
    for (int j = 0; j < m.stride; j += LANES) store(row + j, load(vector + j) + load(place + j));
  }
}

// Where row `r` of the tile has its rows of early block `l`.
float* early_rows(const Model& m, float* buffer, int l, int r) {
  return buffer + ((size_t)l * m.tile + r) * m.shape.window * m.stride;
}

PlannedBlock& early_plan(const Model& m, Workspace& w, int l, int r) {
  return w.early.planned[(size_t)r * m.shape.reads_after + l];
}

// Runs the first blocks for the rows whose policy reads their state, as far as the last position
// needs them. The states stand apart, because a row that goes deeper needs the other positions,
// too, and computes them from the rows in `w.x`.
void run_early_blocks(const Model& m, Workspace& w, const int* positions, int rows) {
  const Shape& s = m.shape;
  size_t row_floats = (size_t)s.window * m.stride, row_bytes = m.stride * sizeof(float);
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
    int users = 0, longest = 0, cursor[TILE_ROWS];
    for (int r = 0; r < rows; r++) {
      if (!w.early.has_run[r]) continue;
      const PlannedBlock& planned = early_plan(m, w, l, r);
      const float* before =
          l ? early_rows(m, w.early.state, l - 1, r) : w.x + (size_t)r * row_floats;
      float* state = early_rows(m, w.early.state, l, r);
      float* hidden = early_rows(m, w.early.hidden, l, r);
      for (int i = 0; i < planned.out.count; i++) {
        size_t at = (size_t)planned.out.at[i] * m.stride;
        memcpy(state + at, before + at, row_bytes);
      }
      middle[users] = {before, hidden, planned.middle};
      out[users++] = {hidden, state, planned.out};
      longest = positions[r] > longest ? positions[r] : longest;
    }
    const ConvBlock& block = m.conv_blocks[l];
    convolve<STORE_RELU>(middle, users, longest, s.width, m.stride, block.dilation, block.conv[0],
                         1.0f, w.conv, cursor);
    convolve<ADD_RELU>(out, users, longest, s.width, m.stride, 2 * block.dilation, block.conv[1],
                       block.scale, w.conv, cursor);
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
    int users = 0, longest = 0, cursor[TILE_ROWS];
    for (int r = 0; r < rows; r++) {
      if (!w.keep[(size_t)r * s.blocks + l] || has_left[r]) continue;
      const PlannedBlock& planned = w.planned[(size_t)r * s.blocks + done[r]++];
      float *x = w.x + r * row_floats, *hidden = w.hidden + r * row_floats;
      if (w.early.has_run[r] && l < early) hidden = early_rows(m, w.early.hidden, l, r);
      middle[users] = {x, hidden, planned.middle};
      out[users++] = {hidden, x, planned.out};
      longest = positions[r] > longest ? positions[r] : longest;
    }
    const ConvBlock& block = m.conv_blocks[l];
    convolve<STORE_RELU>(middle, users, longest, s.width, m.stride, block.dilation, block.conv[0],
                         1.0f, w.conv, cursor);
    convolve<ADD_RELU>(out, users, longest, s.width, m.stride, 2 * block.dilation, block.conv[1],
                       block.scale, w.conv, cursor);
    for (int r = 0; r < rows && l < early; r++) {
      if (!w.early.has_run[r] || has_left[r]) continue;
      const Positions& known = early_plan(m, w, l, r).out;
      const float* state = early_rows(m, w.early.state, l, r);
      for (int i = 0; i < known.count; i++) {
        size_t at = (size_t)known.at[i] * m.stride;
        memcpy(w.x + (size_t)r * row_floats + at, state + at, row_bytes);
      }
    }
  }
}

AttentionShape attention_shape(const Model& m) {
  const Shape& s = m.shape;
  return {s.width, m.stride, s.heads, s.width / s.heads};
}

// The first blocks of the rows whose policy reads their state, at all positions.
void run_early_attention(const Model& m, Workspace& w, const int* positions, int rows) {
  size_t row_floats = (size_t)m.shape.window * m.stride;
  for (int l = 0; l < m.shape.reads_after; l++)
    for (int r = 0; r < rows; r++)
      if (w.early.has_run[r])
        run_attention_block(w.x + r * row_floats, attention_shape(m), positions[r], 0,
                            m.attention_blocks[l], w.attention);
}

void run_attention_blocks(const Model& m, Workspace& w, const int* positions, int rows) {
  const Shape& s = m.shape;
  AttentionShape shape = attention_shape(m);
  int left[TILE_ROWS] = {};  // kept blocks that a row has not run yet
  for (int r = 0; r < rows; r++)
    for (int l = 0; l < s.blocks; l++) left[r] += w.keep[(size_t)r * s.blocks + l];
  for (int l = 0; l < s.blocks; l++)
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
}

bool grow(void* owner, int user) {
  Search& s = ((Workspace*)owner)->search[user];
  Candidate* larger = (Candidate*)realloc(s.candidate, 2 * (size_t)s.capacity * sizeof(Candidate));
  if (!larger) return false;
  s.candidate = larger;
  s.capacity *= 2;
  return true;
}

// The best items of rows first..first + count - 1, whose last vectors are `last`.
bool find_items(const Model& m, Workspace& w, const Request& request, int first, int count,
                const float* last) {
  constexpr int ROOM = 1024;
  if (w.largest_room < request.k) {
    float* larger = (float*)realloc(w.largest, (size_t)USERS_AT_ONCE * request.k * sizeof(float));
    if (!larger) return false;
    w.largest = larger;
    w.largest_room = request.k;
  }
  Search* search[USERS_AT_ONCE];
  size_t bytes = bytes_of_bits(m.shape.items);
  for (int u = 0; u < count; u++) {
    Search& s = w.search[u];
    search[u] = &s;
    if (!s.candidate) {
      s.candidate = (Candidate*)malloc(ROOM * sizeof(Candidate));
      if (!s.candidate) return false;
      s.capacity = ROOM;
    }
    code_query(m.table, last + (size_t)u * m.stride, s.query);
    s.lower_bounds = {w.largest + (size_t)u * request.k, 0, request.k};
    s.count = 0;
    s.excluded = nullptr;
    if (!request.excludes_seen) continue;
    uint8_t* bits = w.excluded + u * bytes;
    for (int64_t i = request.begin(first + u); i < request.end(first + u); i++)
      bits[(request.items[i] - 1) >> 3] |= (uint8_t)(1 << ((request.items[i] - 1) & 7));
    s.excluded = bits;
  }
  const uint8_t* allowed = request.allowed;
  for (int u = 0; u < count;) {
    int left = count - u, users = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    Search* const* group = search + u;
    bool fits = users == 8   ? screen<8>(m.table, group, allowed, grow, &w, u)
                : users == 4 ? screen<4>(m.table, group, allowed, grow, &w, u)
                : users == 2 ? screen<2>(m.table, group, allowed, grow, &w, u)
                             : screen<1>(m.table, group, allowed, grow, &w, u);
    if (!fits) return false;
    u += users;
  }
  for (int u = 0; u < count; u++) {
    size_t out = (size_t)(first + u) * request.k;
    rank_candidates(m.table, w.search[u], request.k, request.items_out + out,
                    request.scores_out + out);
    if (!request.excludes_seen) continue;
    uint8_t* bits = w.excluded + u * bytes;
    for (int64_t i = request.begin(first + u); i < request.end(first + u); i++)
      bits[(request.items[i] - 1) >> 3] = 0;
  }
  return true;
}

void decide_from_early_blocks(const Model& m, Workspace& w, const Undecided* user, int users,
                              const int* positions, int rows, float setting) {
  const Shape& s = m.shape;
  bool is_conv = s.backbone == CONVOLUTIONS;
  (is_conv ? run_early_blocks : run_early_attention)(m, w, positions, rows);
  const float* state[TILE_ROWS];
  for (int r = 0, u = 0; r < rows; r++)
    if (w.early.has_run[r]) {
      const float* behind = is_conv ? early_rows(m, w.early.state, s.reads_after - 1, r)
                                    : w.x + (size_t)r * s.window * m.stride;
      state[u++] = behind + (size_t)(positions[r] - 1) * m.stride;
    }
  decide_from_states(m.policy, user, state, users, s.width, m.stride, w.last, setting, s.blocks,
                     w.policy);
}

int last_kept(const uint8_t* keep, int blocks) {
  while (blocks > 0 && !keep[blocks - 1]) blocks--;
  return blocks;
}

bool run_tile(const Model& m, Workspace& w, const Request& request, int first, int rows) {
  const Shape& s = m.shape;
  size_t row_floats = (size_t)s.window * m.stride;
  int positions_of[TILE_ROWS], undecided = 0;
  Undecided user[TILE_ROWS];
  memset(w.early.has_run, 0, rows);
  for (int r = 0; r < rows; r++) {
    History history = history_of(request, s, first + r);
    positions_of[r] = history.positions;
    float* x = w.x + r * row_floats;
    embed(m, history, x);
    uint8_t* keep = w.keep + (size_t)r * s.blocks;
    if (request.given_keep)
      memcpy(keep, request.given_keep + (size_t)(first + r) * s.blocks, s.blocks);
    else if (s.rule == RUN_ALL || !history.positions)
      memset(keep, 1, s.blocks);
    else {
      user[undecided++] = {x, history.item, history.positions, keep};
      w.early.has_run[r] = s.reads_after > 0;
    }
  }
  if (undecided && s.reads_after)
    decide_from_early_blocks(m, w, user, undecided, positions_of, rows, request.setting);
  else if (undecided)
    decide(m.policy, user, undecided, s.window, s.width, m.stride, request.setting, s.blocks,
           w.conv, w.policy);
  memcpy(request.keep_out + (size_t)first * s.blocks, w.keep, (size_t)rows * s.blocks);
  if (s.backbone == CONVOLUTIONS)
    run_conv_blocks(m, w, positions_of, rows);
  else
    run_attention_blocks(m, w, positions_of, rows);
  if (!request.k) return true;  // the blocks alone
  for (int r = 0; r < rows; r++) {
    int positions = positions_of[r];
    float* last = w.last + (size_t)r * m.stride;
    if (!positions) {
      memset(last, 0, m.stride * sizeof(float));
      continue;
    }
    const float* x = w.x + r * row_floats + (size_t)(positions - 1) * m.stride;
    if (m.exits.count) {
      int depth = last_kept(w.keep + (size_t)r * s.blocks, s.blocks);
      norm_row<STORE>(x, s.width, m.exits.of(depth), 1.0f, last);
    } else
      memcpy(last, x, m.stride * sizeof(float));
  }
  for (int r = 0; r < rows; r += USERS_AT_ONCE) {
    int count = rows - r < USERS_AT_ONCE ? rows - r : USERS_AT_ONCE;
    if (!find_items(m, w, request, first + r, count, w.last + (size_t)r * m.stride)) return false;
  }
  return true;
}

bool run(const void* model, void* workspace, const Request& request, int first, int last) {
#if defined(__AMX_BF16__)
  UseTiles tiles;
#endif
  int tile = ((const Model*)model)->tile;
  for (int at = first; at < last; at += tile) {
    int rows = last - at < tile ? last - at : tile;
    if (!run_tile(*(const Model*)model, *(Workspace*)workspace, request, at, rows)) return false;
  }
  return true;
}

void score_all(const void* model, const float* vectors, int rows, float* scores) {
  const Model& m = *(const Model*)model;
  float x[MAX_WIDTH + LANES] = {};
  for (int r = 0; r < rows; r++) {
    memcpy(x, vectors + (size_t)r * m.shape.width, m.shape.width * sizeof(float));
    for (int item = 0; item < m.shape.items; item++) *scores++ = exact_score(m.table, item, x);
  }
}

size_t num_weights(const Shape& shape) { return count_weights(shape); }

}  // namespace

#define NAME_OF(level) #level
#define NAME(level) NAME_OF(level)
extern "C" const Level* LEVEL_FUNCTION() {
  static const Level level = {NAME(LEVEL),    num_weights,    make_model, free_model,
                              make_workspace, free_workspace, run,        score_all};
  return &level;
}
