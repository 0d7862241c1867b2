// The policy: the `conv` encoder, which pools a history into one vector, or one hidden layer on the
// state after the first blocks; then a linear head whose numbers become the decision.
#pragma once

enum Rule {
  RUN_ALL = 0,      // no policy
  TWO_LOGITS = 1,   // of each block: (skip, keep); kept if keep - skip is above the setting
  SIGMOIDS = 2,     // the same, of the logits' sigmoids
  CHEAPEST_SET = 3  // costs of nested sets; the set with the smallest cost + price * share
};

struct Policy {
  int rule, width, stride, outputs;
  const float* table;                   // its own item vectors [items, stride], or null
  const float *project, *project_bias;  // else the packed projection of the backbone's
  Conv conv[2];                         // of dilations 1 and 2
  const float *head, *head_bias;        // packed [width, outputs]
  const int32_t* set_sizes;             // [outputs], of CHEAPEST_SET
  int reads_after;                      // blocks before the state that it reads; 0: the history
  const float* of_length;               // weights of the logarithm of the history's length
  Norm plain;                           // without weights
};

// A user whose blocks are decided.
struct Undecided {
  const float* x;       // the embedded history [positions, backbone's stride]
  const int32_t* item;  // [positions]
  int positions;
  uint8_t* keep;  // [blocks]
};

// Buffers of a tile of users.
struct PolicyScratch {
  float *x, *second;   // [users, window, stride]
  const float** rows;  // [users * window]
  float** out;
  float* vectors;    // [users, stride]
  float* outputs;    // [users, outputs padded]
  const int* every;  // 0, 1, 2, …
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

// Decides from `s.vectors`, one of each user.
inline void decide_by_vectors(const Policy& policy, const Undecided* user, int users, float setting,
                              int blocks, PolicyScratch& s) {
  int padded = round_up(policy.outputs, LANES);
  for (int u = 0; u < users; u++) {
    s.rows[u] = s.vectors + (size_t)u * policy.stride;
    s.out[u] = s.outputs + (size_t)u * padded;
  }
  Term term{s.rows, policy.head, policy.width, nullptr};
  sum_of_products(&term, 1, users, padded, policy.head_bias, s.out, FLOAT32);
  for (int u = 0; u < users; u++)
    keep_by_rule(policy, s.outputs + (size_t)u * padded, setting, blocks, user[u].keep);
}

// Decides for all users of a tile together, so that their rows share each matrix.
inline void decide(const Policy& policy, const Undecided* user, int users, int window,
                   int backbone_width, int backbone_stride, float setting, int blocks,
                   ConvScratch& scratch, PolicyScratch& s) {
  int stride = policy.stride, rows = 0, longest = 0, cursor[TILE_ROWS];
  size_t user_floats = (size_t)window * stride;
  for (int u = 0; u < users; u++) {
    longest = user[u].positions > longest ? user[u].positions : longest;
    for (int i = 0; i < user[u].positions; i++) {
      float* row = s.x + u * user_floats + (size_t)i * stride;
      if (policy.table) {
        const float* own = policy.table + (size_t)(user[u].item[i] - 1) * stride;
        memcpy(row, own, stride * sizeof(float));
      }
      s.rows[rows] = user[u].x + (size_t)i * backbone_stride;
      s.out[rows++] = row;
    }
  }
  if (!policy.table) {
    Term term{s.rows, policy.project, backbone_width, nullptr};
    sum_of_products(&term, 1, rows, stride, policy.project_bias, s.out, FLOAT32);
  }
  // A convolution reads older rows only, but in place it would read what it has just written.
  float* layers[2] = {s.x, s.second};
  for (int layer = 0; layer < 2; layer++) {
    ConvInput input[TILE_ROWS];
    for (int u = 0; u < users; u++) {
      float *from = layers[layer] + u * user_floats, *to = layers[1 - layer] + u * user_floats;
      memcpy(to, from, (size_t)user[u].positions * stride * sizeof(float));
      input[u] = {from, to, {s.every, user[u].positions}};
    }
    convolve<ADD_RELU>(input, users, longest, policy.width, stride, 1 + layer, policy.conv[layer],
                       1.0f, scratch, cursor);
  }
  for (int u = 0; u < users; u++) {
    float* vector = s.vectors + (size_t)u * stride;
    for (int j = 0; j < stride; j += LANES) {
      Vec total{};
      for (int i = 0; i < user[u].positions; i++)
        total += load(s.x + u * user_floats + (size_t)i * stride + j);
      store(vector + j, total * all(1.0f / user[u].positions));
    }
  }
  decide_by_vectors(policy, user, users, setting, blocks, s);
}

// Decides from the last positions' states behind the first blocks. `normed` has room for a row of
// the backbone for each user.
inline void decide_from_states(const Policy& policy, const Undecided* user, const float** state,
                               int users, int backbone_width, int backbone_stride, float* normed,
                               float setting, int blocks, PolicyScratch& s) {
  int stride = policy.stride;
  for (int u = 0; u < users; u++) {
    float* row = normed + (size_t)u * backbone_stride;
    norm_row<STORE>(state[u], backbone_width, policy.plain, 1.0f, row);
    s.rows[u] = row;
    s.out[u] = s.vectors + (size_t)u * stride;
  }
  Term term{s.rows, policy.project, backbone_width, nullptr};
  sum_of_products(&term, 1, users, stride, policy.project_bias, s.out, FLOAT32);
  for (int u = 0; u < users; u++) {
    float length = __builtin_logf((float)user[u].positions);
    float* vector = s.vectors + (size_t)u * stride;
    for (int j = 0; j < stride; j++) {
      float value = vector[j] + length * policy.of_length[j];
      vector[j] = value > 0 ? value : 0;
    }
  }
  decide_by_vectors(policy, user, users, setting, blocks, s);
  for (int u = 0; u < users; u++) memset(user[u].keep, 1, policy.reads_after);
}
