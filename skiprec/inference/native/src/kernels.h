// What api.cpp calls of a level, and the numbers that describe a model. Plain C types only.
#pragma once

#include <cstddef>
#include <cstdint>

enum Backbone { CONVOLUTIONS = 0, ATTENTION = 1, AUTHORS_ATTENTION = 2 };

// The shape of a model, as Python passes it (native/pack.py has the same fields in this order).
struct Shape {
  int32_t backbone, items, width, blocks, window, heads, positions_table;
  int32_t norms;  // before the scores: none, one for all rows, or one for each exit
  int32_t rule, policy_width, policy_has_table, sets;
  int32_t reads_after;    // blocks that a policy runs before it reads their state; 0: the history
  int32_t readout_width;  // channels of the hidden layer of exits that add up; 0: norms alone
};

// Lists that belong to a shape.
struct Lists {
  const int32_t* dilations;    // [blocks], of convolutions
  const int32_t* set_sizes;    // [sets], rising
  const int32_t* exit_depths;  // [norms], rising; the last is `blocks`
};

enum Part { POLICY_PART, BLOCKS_PART, HEAD_PART, PARTS };

struct Request {
  const int32_t* items;       // the histories, one after the other, oldest item first
  const int64_t* ends;        // [rows]: where each history ends in `items`
  const uint8_t* given_keep;  // [rows, blocks] or null: the policy decides
  const uint8_t* allowed;     // one bit for each item, or null: every item
  float setting;              // of the policy: the threshold or the price
  int64_t num_items;          // in `items`
  int32_t k;                  // 0: no lists, the blocks alone
  int32_t excludes_seen, rows;
  int32_t* items_out;   // [rows, k]
  float* scores_out;    // [rows, k]
  uint8_t* keep_out;    // [rows, blocks]
  double* seconds_out;  // [PARTS]: time of each part, summed over threads

  int64_t begin(int row) const { return row ? ends[row - 1] : 0; }
  int64_t end(int row) const { return ends[row]; }
};

constexpr int MAX_WIDTH = 4096;

// A model and a workspace are opaque: their layout depends on the level. A workspace serves one
// thread at a time. Functions that return a pointer return null when there is no memory.
struct Level {
  const char* name;
  size_t (*num_weights)(const Shape&);
  void* (*make_model)(const Shape&, const Lists&, const float* weights);
  void (*free_model)(void* model);
  void* (*make_workspace)(const void* model);
  void (*free_workspace)(void* workspace);
  // Answers rows first..last of the request, and adds the time of each part to seconds[PARTS];
  // false: out of memory.
  bool (*run)(const void* model, void* workspace, const Request&, int first, int last,
              double* seconds);
  // The scores of all items for vectors [rows, width], as the top-k computes them.
  void (*score_all)(const void* model, const float* vectors, int rows, float* scores);
};

extern "C" {
const Level* skiprec_level_generic();
const Level* skiprec_level_avx2();
const Level* skiprec_level_avx512();
const Level* skiprec_level_avx512_vnni();
// Products of blocks in bf16; for callers that name them.
const Level* skiprec_level_avx512_bf16();
const Level* skiprec_level_amx_bf16();
}
