// The policy: the `conv` encoder, which pools a history into one vector, and a linear head whose
// numbers become the decision which blocks run.
#pragma once

enum Rule {
  RUN_ALL = 0,      // no policy
  TWO_LOGITS = 1,   // of each block: (skip, keep); kept if keep - skip is above the setting
  SIGMOIDS = 2,     // the same, of the logits' sigmoids
  CHEAPEST_SET = 3  // costs of nested sets; the set with the smallest cost + price * share
};

struct Policy {
  int rule, width, stride, outputs;
  const float* table;                 // its own item vectors [items, stride], or null
  const float *project, *project_bias;  // else the packed projection of the backbone's
  Conv conv[2];                       // of dilations 1 and 2
  const float *head, *head_bias;      // packed [width, outputs]
  const int32_t* set_sizes;           // [outputs], of CHEAPEST_SET
};

struct PolicyScratch {
  float *x, *second;  // rows of the policy's stride
  const float** rows;
  float** out;
  float* vector;    // [stride]
  float* output;    // [outputs, padded]
  const int* every; // 0, 1, 2, …
};

// P(keep) of two logits is above t where their difference is above log(t / (1 - t)), so `setting`
// holds that number. Among sets of equal cost the smallest is taken.
inline void keep_by_rule(const Policy& policy, const float* output, float setting, int blocks,
                         uint8_t* keep) {
  if (policy.rule == CHEAPEST_SET) {
    int best = 0;
    float best_cost = 0, all_blocks = output[policy.outputs - 1];
    for (int m = 0; m < policy.outputs; m++) {
      float share = setting * (float)policy.set_sizes[m] / (float)blocks;
      float cost = (output[m] - all_blocks) + share;
      if (m == 0 || cost < best_cost) best = m, best_cost = cost;
    }
    for (int l = 0; l < blocks; l++) keep[l] = l < policy.set_sizes[best];
    return;
  }
  for (int l = 0; l < blocks; l++) {
    float skip = output[2 * l], kept = output[2 * l + 1];
    if (policy.rule == SIGMOIDS) {
      skip = 1.0f / (1.0f + __builtin_expf(-skip));
      kept = 1.0f / (1.0f + __builtin_expf(-kept));
    }
    keep[l] = setting == 0.0f ? kept > skip : kept - skip > setting;
  }
}

// Decides from the embedded history `x` [positions, backbone's stride] and its item ids.
inline void decide(const Policy& policy, const float* x, int backbone_width, int backbone_stride,
                   const int32_t* item, int positions, float setting, int blocks,
                   ConvScratch& scratch, PolicyScratch& s, uint8_t* keep) {
  int stride = policy.stride;
  for (int i = 0; i < positions; i++) {
    float* row = s.x + (size_t)i * stride;
    if (policy.table) memcpy(row, policy.table + (size_t)(item[i] - 1) * stride, stride * sizeof(float));
    s.rows[i] = x + (size_t)i * backbone_stride;
    s.out[i] = row;
  }
  if (!policy.table) {
    Term term{s.rows, policy.project, backbone_width, nullptr};
    sum_of_products(&term, 1, positions, stride, policy.project_bias, s.out);
  }
  // A convolution reads older rows only, but in place it would read what it has just written.
  float* layers[2] = {s.x, s.second};
  for (int layer = 0; layer < 2; layer++) {
    size_t floats = (size_t)positions * stride;
    memcpy(layers[1 - layer], layers[layer], floats * sizeof(float));
    ConvInput input{layers[layer], layers[1 - layer], {s.every, positions}};
    int cursor;
    convolve<ADD_RELU>(&input, 1, positions, policy.width, stride, 1 + layer, policy.conv[layer],
                       1.0f, scratch, &cursor);
  }
  for (int j = 0; j < stride; j += LANES) {
    Vec total{};
    for (int i = 0; i < positions; i++) total += load(s.x + (size_t)i * stride + j);
    store(s.vector + j, total * all(1.0f / positions));
  }
  const float* row = s.vector;
  Term term{&row, policy.head, policy.width, nullptr};
  sum_of_products(&term, 1, 1, round_up(policy.outputs, LANES), policy.head_bias, &s.output);
  keep_by_rule(policy, s.output, setting, blocks, keep);
}
