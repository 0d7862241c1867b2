// One level of the library: all kernels, compiled for one instruction set.
//
// The build compiles this file once for each level, with LEVEL and LEVEL_FUNCTION defined. It uses
// no C++ library, because inline functions of it that are compiled for a new instruction set could
// be linked into the code for an old one.
#include <cstdlib>
#include <cstring>
#include <time.h>

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
#include "workspace.h"
#include "readouts.h"
#include "run_blocks.h"

// Adds the time since the last call to one part.
struct Stopwatch {
  double* seconds;
  timespec last;

  explicit Stopwatch(double* of_parts) : seconds(of_parts) {
    clock_gettime(CLOCK_MONOTONIC, &last);
  }
  void add_to(Part part) {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    seconds[part] += (double)(now.tv_sec - last.tv_sec) + 1e-9 * (now.tv_nsec - last.tv_nsec);
    last = now;
  }
};

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

bool grow(void* owner, int user) {
  Search& s = ((Workspace*)owner)->search[user];
  Candidate* larger = (Candidate*)realloc(s.candidate, 2 * (size_t)s.capacity * sizeof(Candidate));
  if (!larger) return false;
  s.candidate = larger;
  s.capacity *= 2;
  return true;
}

// Clears the bits of the items that some rows have seen.
void forget_seen(Workspace& w, const Request& request, int first, int count, size_t bytes) {
  for (int u = 0; request.excludes_seen && u < count; u++) {
    uint8_t* bits = w.excluded + u * bytes;
    for (int64_t i = request.begin(first + u); i < request.end(first + u); i++)
      bits[(request.items[i] - 1) >> 3] = 0;
  }
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
    if (!fits) {
      forget_seen(w, request, first, count, bytes);
      return false;
    }
    u += users;
  }
  for (int u = 0; u < count; u++) {
    size_t out = (size_t)(first + u) * request.k;
    rank_candidates(m.table, w.search[u], request.k, request.items_out + out,
                    request.scores_out + out);
  }
  forget_seen(w, request, first, count, bytes);
  return true;
}

void decide_from_early_blocks(const Model& m, Workspace& w, const Undecided* user, int users,
                              const int* positions, int rows, float setting, Stopwatch& watch) {
  const Shape& s = m.shape;
  bool is_conv = s.backbone == CONVOLUTIONS;
  (is_conv ? run_early_blocks : run_early_attention)(m, w, positions, rows);
  watch.add_to(BLOCKS_PART);
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

bool run_tile(const Model& m, Workspace& w, const Request& request, int first, int rows,
              double* seconds) {
  Stopwatch watch(seconds);
  const Shape& s = m.shape;
  size_t row_floats = (size_t)s.window * m.stride;
  int positions_of[TILE_ROWS], undecided = 0;
  Undecided user[TILE_ROWS];
  memset(w.early.has_run, 0, rows);
  if (m.exits.hidden) {
    memset(w.readout.sum, 0, (size_t)rows * m.stride * sizeof(float));
    memset(w.readout.next, 0, rows * sizeof(int));
  }
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
  watch.add_to(BLOCKS_PART);  // the embedding
  if (undecided && s.reads_after)
    decide_from_early_blocks(m, w, user, undecided, positions_of, rows, request.setting, watch);
  else if (undecided)
    decide(m.policy, user, undecided, s.window, s.width, m.stride, request.setting, s.blocks,
           w.conv, w.policy);
  if (undecided) watch.add_to(POLICY_PART);
  memcpy(request.keep_out + (size_t)first * s.blocks, w.keep, (size_t)rows * s.blocks);
  for (int r = 0; m.exits.hidden && r < rows; r++)
    w.readout.last[r] = m.exits.of(last_kept(w.keep + (size_t)r * s.blocks, s.blocks));
  if (s.backbone == CONVOLUTIONS)
    run_conv_blocks(m, w, positions_of, rows);
  else
    run_attention_blocks(m, w, positions_of, rows);
  watch.add_to(BLOCKS_PART);
  if (!request.k) return true;  // the blocks alone
  for (int r = 0; r < rows; r++) {
    int positions = positions_of[r];
    float* last = w.last + (size_t)r * m.stride;
    if (!positions) {
      memset(last, 0, m.stride * sizeof(float));
      continue;
    }
    const float* x = w.x + r * row_floats + (size_t)(positions - 1) * m.stride;
    if (m.exits.hidden)
      memcpy(last, w.readout.sum + (size_t)r * m.stride, m.stride * sizeof(float));
    else if (m.exits.count) {
      int depth = last_kept(w.keep + (size_t)r * s.blocks, s.blocks);
      norm_row<STORE>(x, s.width, m.exits.norm[m.exits.of(depth)], 1.0f, last);
    } else
      memcpy(last, x, m.stride * sizeof(float));
  }
  for (int r = 0; r < rows; r += USERS_AT_ONCE) {
    int count = rows - r < USERS_AT_ONCE ? rows - r : USERS_AT_ONCE;
    if (!find_items(m, w, request, first + r, count, w.last + (size_t)r * m.stride)) return false;
  }
  watch.add_to(HEAD_PART);
  return true;
}

bool run(const void* model, void* workspace, const Request& request, int first, int last,
         double* seconds) {
#if defined(__AMX_BF16__)
  UseTiles tiles;
#endif
  int tile = ((const Model*)model)->tile;
  for (int at = first; at < last; at += tile) {
    int rows = last - at < tile ? last - at : tile;
    if (!run_tile(*(const Model*)model, *(Workspace*)workspace, request, at, rows, seconds))
      return false;
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
