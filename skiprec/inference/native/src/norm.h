// Layer norms of single rows. `width` is the true number of channels; rows are padded with zeros to
// whole vectors, and stay so, because gamma and beta are zero there.
#pragma once

constexpr float NORM_EPSILON = 1e-5f;

struct Norm {
  const float *gamma, *beta;
};

// What happens to the normalised row.
enum Then { STORE, STORE_RELU, ADD, ADD_RELU };

// to = norm(x), relu(norm(x)), to + norm(x), or to + scale * relu(norm(x)). `to` may be `x`.
template <Then THEN>
inline void norm_row(const float* x, int width, Norm norm, float scale, float* to) {
  int padded = round_up(width, LANES);
  Vec total{};
  for (int j = 0; j < padded; j += LANES) total += load(x + j);
  float mean = sum(total) / width;
  Vec squares{};
  int whole = width / LANES * LANES;
  for (int j = 0; j < whole; j += LANES) {
    Vec d = load(x + j) - all(mean);
    squares += d * d;
  }
  float variance = sum(squares);
  for (int j = whole; j < width; j++) variance += (x[j] - mean) * (x[j] - mean);
  Vec factor = all(1.0f / __builtin_sqrtf(variance / width + NORM_EPSILON));
  for (int j = 0; j < padded; j += LANES) {
    Vec y = (load(x + j) - all(mean)) * factor * load(norm.gamma + j) + load(norm.beta + j);
    if (THEN == STORE_RELU || THEN == ADD_RELU) y = larger(y, Vec{});
    if (THEN == ADD) y = load(to + j) + y;
    if (THEN == ADD_RELU) y = load(to + j) + all(scale) * y;
    store(to + j, y);
  }
}
