// The C interface of the library: checks what comes from outside, chooses the level, spreads rows
// over threads. Python calls it through ctypes (native/library.py).
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(HAS_avx2)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "kernels.h"

#define EXPORT __attribute__((visibility("default")))

namespace {

constexpr int MAX_LENGTH = 1 << 20;  // of the window, the blocks, the table of positions
constexpr int MAX_K = 10000;
constexpr int ROWS_OF_TASK = 64;  // the largest tile of level.cpp

thread_local char message[256];  // the reason of this thread's last failure

bool fail(const char* text, long long found = 0, long long limit = 0) {
  snprintf(message, sizeof message, text, found, limit);
  return false;
}

#if defined(HAS_avx2)
struct Features {
  bool avx2, avx512, vnni, bf16, amx;
};

// Linux gives a process the registers of AMX when it asks for them.
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
  return false;
#endif
}

// What the processor has and the system saves between threads. The compilers' own function for this
// is not there with every one of them.
Features features() {
  unsigned a, b, c, d, b7, c7, d7;
  if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7) || !__get_cpuid(1, &a, &b, &c, &d)) return {};
  bool has_fma = c >> 12 & 1, has_xsave = c >> 27 & 1;
  if (!has_fma || !has_xsave) return {};
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  bool saves_ymm = (low & 0x06) == 0x06, saves_zmm = (low & 0xe6) == 0xe6;
  bool avx2 = saves_ymm && (b7 >> 5 & 1);
  bool foundation = b7 >> 16 & 1, shorter = b7 >> 31 & 1;
  bool dwords = b7 >> 17 & 1, bytes = b7 >> 30 & 1;
  bool avx512 = avx2 && saves_zmm && foundation && dwords && bytes && shorter;
  bool vnni = avx512 && (c7 >> 11 & 1);
  unsigned a71 = 0;
  bool bf16 = vnni && __get_cpuid_count(7, 1, &a71, &b, &c, &d) && (a71 >> 5 & 1);
  bool amx = bf16 && (d7 >> 22 & 1) && (d7 >> 24 & 1) && (low & 0x60000) == 0x60000;
  return {avx2, avx512, vnni, bf16, amx && may_use_tiles()};
}
#endif

// Best first. Behind the level `generic`, which every machine has, are those that only a caller who
// names them gets, because their answers differ.
std::vector<const Level*> usable_levels() {
  std::vector<const Level*> levels;
#if defined(HAS_avx2)
  Features has = features();
#endif
#if defined(HAS_avx512_vnni)
  if (has.vnni) levels.push_back(skiprec_level_avx512_vnni());
#endif
#if defined(HAS_avx512)
  if (has.avx512) levels.push_back(skiprec_level_avx512());
#endif
#if defined(HAS_avx2)
  if (has.avx2) levels.push_back(skiprec_level_avx2());
#endif
  levels.push_back(skiprec_level_generic());
#if defined(HAS_amx_bf16)
  if (has.amx) levels.push_back(skiprec_level_amx_bf16());
#endif
#if defined(HAS_avx512_bf16)
  if (has.bf16) levels.push_back(skiprec_level_avx512_bf16());
#endif
  return levels;
}

// A loaded model with the workspaces that are not in use.
struct Handle {
  const Level* level;
  Shape shape;
  void* model = nullptr;
  std::mutex lock;
  std::vector<void*> idle;

  void* borrow() {
    {
      std::lock_guard<std::mutex> guard(lock);
      if (!idle.empty()) {
        void* workspace = idle.back();
        idle.pop_back();
        return workspace;
      }
    }
    return level->make_workspace(model);
  }

  void give_back(void* workspace) {
    std::lock_guard<std::mutex> guard(lock);
    idle.push_back(workspace);
  }

  ~Handle() {
    for (void* workspace : idle) level->free_workspace(workspace);
    if (model) level->free_model(model);
  }
};

bool check_shape(const Shape& s) {
  struct Bound {
    const char* name;
    int32_t value, low, high;
  };
  const Bound bounds[] = {
      {"backbone", s.backbone, CONVOLUTIONS, AUTHORS_ATTENTION},
      {"items", s.items, 1, INT_MAX / 8},
      {"width", s.width, 1, MAX_WIDTH},
      {"blocks", s.blocks, 1, 65536},
      {"window", s.window, 1, MAX_LENGTH},
      {"heads", s.heads, s.backbone == CONVOLUTIONS ? 0 : 1, s.width},
      {"positions_table", s.positions_table, s.backbone == CONVOLUTIONS ? 0 : s.window, MAX_LENGTH},
      {"norms", s.norms, 0, s.blocks},
      {"rule", s.rule, 0, 3},
      {"policy_width", s.policy_width, s.rule ? 1 : 0, MAX_WIDTH},
      {"policy_has_table", s.policy_has_table, 0, s.reads_after ? 0 : 1},
      {"sets", s.sets, s.rule == 3 ? 1 : 0, 65536},
      {"reads_after", s.reads_after, 0, s.rule ? s.blocks - 1 : 0},
      {"readout_width", s.readout_width, 0, s.norms ? MAX_WIDTH : 0},
  };
  for (const Bound& bound : bounds)
    if (bound.value < bound.low || bound.value > bound.high) {
      snprintf(message, sizeof message, "%s is %d; expected %d to %d", bound.name, bound.value,
               bound.low, bound.high);
      return false;
    }
  if (s.backbone != CONVOLUTIONS && s.width % s.heads)
    return fail("a width of %lld does not divide into %lld heads", s.width, s.heads);
  return true;
}

// Numbers of blocks must rise from `least` on, and the last must be all blocks.
bool check_sizes(const char* what, const int32_t* sizes, int count, int least, int blocks) {
  for (int i = 0; i < count; i++) {
    bool rises = sizes[i] >= least && (i == 0 || sizes[i] > sizes[i - 1]);
    if (rises && sizes[i] <= blocks && (i < count - 1 || sizes[i] == blocks)) continue;
    snprintf(message, sizeof message,
             "%s %d has %d blocks; expected rising numbers from %d on, of which the last is %d",
             what, i, sizes[i], least, blocks);
    return false;
  }
  return true;
}

bool check_request(const Handle& handle, const Request& q) {
  if (q.rows < 0) return fail("%lld rows; expected none or more", q.rows);
  if (q.k < 0 || q.k > MAX_K) return fail("k is %lld; expected 0 to %lld", q.k, MAX_K);
  for (int r = 0; r < q.rows; r++)
    if (q.end(r) < q.begin(r)) return fail("history %lld ends before it starts", r);
  if (q.rows && q.end(q.rows - 1) > q.num_items)
    return fail("a history ends at %lld, behind the last of %lld items", q.end(q.rows - 1),
                q.num_items);
  for (int64_t i = 0; q.rows && i < q.end(q.rows - 1); i++)
    if (q.items[i] < 1 || q.items[i] > handle.shape.items)
      return fail("item id %lld; expected 1 to %lld", q.items[i], handle.shape.items);
  if (q.given_keep)
    for (int64_t i = 0; i < (int64_t)q.rows * handle.shape.blocks; i++)
      if (q.given_keep[i] > 1)
        return fail("a keep decision of %lld; expected 0 or 1", q.given_keep[i]);
  return true;
}

}  // namespace

extern "C" {

// The name of level `index` of usable_levels(); null behind the last one.
EXPORT const char* skiprec_level_name(int index) {
  static const std::vector<const Level*> levels = usable_levels();
  return index >= 0 && index < (int)levels.size() ? levels[index]->name : nullptr;
}

// Why this thread's last call of the library failed.
EXPORT const char* skiprec_error() { return message; }

// A model, or null; `skiprec_error` then has the reason. `level` names a level; null: the best.
EXPORT void* skiprec_load(const Shape* shape, const Lists* lists, const float* weights,
                          size_t num_weights, const char* level) try {
  if (!check_shape(*shape)) return nullptr;
  const Level* chosen = nullptr;
  for (const Level* one : usable_levels())
    if (!chosen && (!level || !strcmp(level, one->name))) chosen = one;
  if (!chosen) {
    snprintf(message, sizeof message, "this machine has no level %s", level);
    return nullptr;
  }
  size_t expected = chosen->num_weights(*shape);
  if (num_weights != expected) {
    fail("found %lld weights; this shape needs %lld", num_weights, expected);
    return nullptr;
  }
  for (size_t i = 0; i < num_weights; i++)
    if (!std::isfinite(weights[i])) {
      fail("weight %lld of %lld is not finite", i, num_weights);
      return nullptr;
    }
  for (int l = 0; shape->backbone == CONVOLUTIONS && l < shape->blocks; l++)
    if (lists->dilations[l] < 1 || lists->dilations[l] > MAX_LENGTH) {
      fail("a dilation of %lld; expected 1 to %lld", lists->dilations[l], MAX_LENGTH);
      return nullptr;
    }
  if (!check_sizes("set", lists->set_sizes, shape->sets, shape->reads_after, shape->blocks) ||
      !check_sizes("exit", lists->exit_depths, shape->norms, 1, shape->blocks))
    return nullptr;
  Handle* handle = new Handle;
  handle->level = chosen;
  handle->shape = *shape;
  handle->model = chosen->make_model(*shape, *lists, weights);
  if (handle->model) return handle;
  delete handle;
  snprintf(message, sizeof message, "no memory for the model");
  return nullptr;
} catch (const std::bad_alloc&) {
  snprintf(message, sizeof message, "no memory for the model");
  return nullptr;
}

EXPORT void skiprec_free(void* handle) { delete (Handle*)handle; }

// Answers a request on `threads` threads. 0: done; else `skiprec_error` has the reason.
EXPORT int skiprec_recommend(void* of_model, const Request* request, int threads) try {
  Handle& handle = *(Handle*)of_model;
  const Request& q = *request;
  if (!check_request(handle, q)) return 1;
  if (threads > q.rows) threads = q.rows;  // a row is not split
  int tasks = (q.rows + ROWS_OF_TASK - 1) / ROWS_OF_TASK;
  int workers = threads < tasks ? threads : tasks;
  // Rows are split evenly, so that a small batch keeps all threads busy.
  int rows_of_task = ROWS_OF_TASK;
  if (threads > 1 && q.rows > 1) {
    int even = (q.rows + threads - 1) / threads;
    if (even < rows_of_task) rows_of_task = even;
    tasks = (q.rows + rows_of_task - 1) / rows_of_task;
    workers = threads < tasks ? threads : tasks;
  }
  std::atomic<int> next{0};
  std::atomic<bool> has_memory{true};
  std::mutex sums;
  for (int part = 0; part < PARTS; part++) q.seconds_out[part] = 0;
  auto work = [&] {
    double seconds[PARTS] = {};
    void* workspace = handle.borrow();
    if (!workspace) {
      has_memory = false;
      return;
    }
    for (int task = next++; task < tasks && has_memory; task = next++) {
      int first = task * rows_of_task;
      int last = first + rows_of_task < q.rows ? first + rows_of_task : q.rows;
      if (!handle.level->run(handle.model, workspace, q, first, last, seconds)) has_memory = false;
    }
    handle.give_back(workspace);
    std::lock_guard<std::mutex> lock(sums);
    for (int part = 0; part < PARTS; part++) q.seconds_out[part] += seconds[part];
  };
  std::vector<std::thread> helpers;
  try {
    for (int i = 1; i < workers; i++) helpers.emplace_back(work);
  } catch (const std::system_error&) {
    // The machine gives no more threads: those that started do the work.
  }
  work();
  for (std::thread& helper : helpers) helper.join();
  if (has_memory) return 0;
  snprintf(message, sizeof message, "no memory for the answer");
  return 1;
} catch (const std::exception& error) {
  snprintf(message, sizeof message, "%s", error.what());
  return 1;
}

// The scores of all items for vectors [rows, width], as the top-k computes them; for tests.
EXPORT void skiprec_scores(void* of_model, const float* vectors, int rows, float* scores) {
  Handle& handle = *(Handle*)of_model;
  handle.level->score_all(handle.model, vectors, rows, scores);
}
}
