// A loaded model, and the buffers with which one thread answers requests to it.
#pragma once

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

// The sums of readouts, for exits that add up.
struct ReadoutScratch {
  float* sum;                   // [tile, stride]
  float *normed, *hidden;       // [tile, stride], [tile, stride of the hidden layer]
  int *next, *last;             // [tile]: the exits that a row reads next, and at the end
  const float **state, **rows;  // [tile]
  float** out;
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
  ReadoutScratch readout;
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
  size_t readouts = s.readout_width ? tile : 0;
  w->readout.sum = floats(readouts * stride);
  w->readout.normed = floats(readouts * stride);
  w->readout.hidden = floats(readouts * model->exits.hidden_stride);
  w->readout.next = (int*)bytes(readouts * sizeof(int));
  w->readout.last = (int*)bytes(readouts * sizeof(int));
  w->readout.state = (const float**)bytes(readouts * sizeof(float*));
  w->readout.rows = (const float**)bytes(readouts * sizeof(float*));
  w->readout.out = (float**)bytes(readouts * sizeof(float*));
  w->search = (Search*)bytes(USERS_AT_ONCE * sizeof(Search));
  w->excluded = (uint8_t*)bytes(USERS_AT_ONCE * bytes_of_bits(s.items));
  if (failed) {
    free_workspace(w);
    return nullptr;
  }
  return w;
}
