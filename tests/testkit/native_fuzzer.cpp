// Random models and requests, valid and not, for the library under a sanitizer.
// Usage: program SEED ROUNDS. Each round loads a model and calls it from three threads.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../skiprec/inference/native/src/kernels.h"

extern "C" {
const char* skiprec_level_name(int index);
void* skiprec_load(const Shape*, const Lists*, const float*, size_t, const char*);
void skiprec_free(void*);
int skiprec_recommend(void*, const Request*, int);
}

static std::mt19937 source;
static int draw(int low, int high) { return std::uniform_int_distribution<int>(low, high)(source); }

static void require(bool holds, const char* what) {
  if (holds) return;
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void call(void* model, const Shape& shape, int seed) {
  std::mt19937 own(seed);
  auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(own); };
  int rows = pick(0, 40), k = pick(1, 40);
  std::vector<int32_t> items;
  std::vector<int64_t> ends;
  for (int r = 0; r < rows; r++) {
    int length = pick(0, 2 * shape.window);
    for (int i = 0; i < length; i++) items.push_back(pick(1, shape.items));
    ends.push_back((int64_t)items.size());
  }
  items.shrink_to_fit();
  double seconds_out[PARTS];
  std::vector<uint8_t> keep((size_t)rows * shape.blocks), keep_out(keep.size());
  for (uint8_t& one : keep) one = (uint8_t)pick(0, 1);
  std::vector<uint8_t> allowed(shape.items / 8 + 1);
  for (uint8_t& bits : allowed) bits = (uint8_t)pick(0, 255);
  std::vector<int32_t> items_out((size_t)rows * k);
  std::vector<float> scores_out(items_out.size());
  Request request{items.data(), ends.data(), pick(0, 1) ? keep.data() : nullptr,
                  pick(0, 1) ? allowed.data() : nullptr, 0.1f, (int64_t)items.size(), k, pick(0, 1), rows,
                  items_out.data(), scores_out.data(), keep_out.data(), seconds_out};
  bool is_bad = pick(0, 9) == 0 && !items.empty();
  if (is_bad) items[pick(0, (int)items.size() - 1)] = pick(0, 1) ? 0 : shape.items + 1;
  int code = skiprec_recommend(model, &request, pick(1, 3));
  require((code != 0) == is_bad, "a bad request must be refused, a good one answered");
  if (code) return;
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < k; i++) {
      int32_t item = items_out[(size_t)r * k + i];
      float score = scores_out[(size_t)r * k + i];
      require(item >= 0 && item <= shape.items, "an id outside of the catalogue");
      require((item == 0) == (score == -INFINITY), "an id without a score");
      require(i == 0 || score <= scores_out[(size_t)r * k + i - 1], "scores must fall");
    }
}

int main(int argc, char** argv) {
  require(argc == 3, "usage: SEED ROUNDS");
  source.seed((unsigned)atoi(argv[1]));
  int levels = 0, loaded = 0;
  while (skiprec_level_name(levels)) levels++;
  for (int round = 0; round < atoi(argv[2]); round++) {
    Shape shape{};
    shape.backbone = draw(0, 2);
    shape.items = draw(1, 200);
    shape.heads = shape.backbone ? draw(1, 3) : 0;
    shape.width = (shape.heads ? shape.heads : 1) * draw(1, 40);
    shape.blocks = draw(1, 4);
    shape.window = draw(1, 40);
    shape.positions_table = shape.backbone ? shape.window + draw(0, 5) : 0;
    shape.norms = draw(0, shape.blocks);
    shape.readout_width = shape.norms ? draw(0, 2) * 5 : 0;
    shape.rule = draw(0, 3);
    shape.policy_width = shape.rule ? draw(1, 40) : 0;
    shape.reads_after = shape.rule && draw(0, 1) ? draw(0, shape.blocks - 1) : 0;
    shape.policy_has_table = shape.rule && !shape.reads_after ? draw(0, 1) : 0;
    int least = shape.reads_after ? shape.reads_after : 0;
    shape.sets = shape.rule == 3 ? draw(1, shape.blocks - least + 1) : 0;
    std::vector<int32_t> dilations(shape.blocks), sizes(shape.sets);
    for (int32_t& one : dilations) one = draw(1, 50);
    for (int m = 0; m < shape.sets; m++) sizes[m] = shape.blocks - shape.sets + 1 + m;
    std::vector<int32_t> exits(shape.norms);
    for (int e = 0; e < shape.norms; e++) exits[e] = shape.blocks - shape.norms + 1 + e;
    Lists lists{dilations.data(), sizes.data(), exits.data()};
    size_t width = shape.width, policy = shape.policy_width, items = shape.items;
    size_t outputs = shape.rule == 3 ? shape.sets : 2 * shape.blocks;
    size_t count = 2 * items * width + items + (shape.backbone ? shape.positions_table * width : 0);
    if (shape.reads_after)
      count += (width + 2) * policy + (policy + 1) * outputs;
    else if (shape.rule)
      count += (shape.policy_has_table ? items * policy : (width + 1) * policy) +
               2 * (3 * policy * policy + 3 * policy) + (policy + 1) * outputs;
    count += shape.blocks * (shape.backbone ? 5 * width * width + 6 * width + 2
                                            : 2 * (3 * width * width + 3 * width) + 1);
    count += 2 * width * shape.norms * (1 + shape.readout_width);
    bool is_wrong = draw(0, 9) == 0;
    std::vector<float> weights(count + (is_wrong ? 1 : 0));
    std::normal_distribution<float> normal(0, 0.2f);
    for (float& one : weights) one = normal(source);
    weights.shrink_to_fit();
    void* model = skiprec_load(&shape, &lists, weights.data(), weights.size(),
                               skiprec_level_name(draw(0, levels - 1)));
    require((model == nullptr) == is_wrong, "a model of another size must be refused");
    if (!model) continue;
    loaded++;
    std::vector<std::thread> callers;
    for (int c = 0; c < 3; c++) callers.emplace_back(call, model, shape, draw(0, 1 << 30));
    for (std::thread& caller : callers) caller.join();
    skiprec_free(model);
  }
  printf("%d models\n", loaded);
  return 0;
}
