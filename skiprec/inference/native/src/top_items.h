// The exact best items of a few users. An int8 copy of the item table rules out nearly all items by
// a proven bound; the rest get their float32 score. Both passes use `exact_score`, so the list is
// what sorting all float32 scores would give, ties by the smaller item id.
//
// Let w be an item's vector, x the user's, w' and x' what the int8 numbers stand for. Then
//     |w.x - w'.x'| <= |w| |x - x'| + |w - w'| |x'|,
// and float32 sums of D + 1 terms are wrong by at most (D + 2) 2^-24 (|w| |x| + |bias|), which
// `ROUNDING` enlarges.
#pragma once

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
constexpr int LARGEST_QUERY = 127;
#elif defined(__AVX2__)
constexpr int LARGEST_QUERY = 63;  // so that a sum of two products fits 16 bits
#else
constexpr int LARGEST_QUERY = 127;
#endif
constexpr int QUERY_OFFSET = LARGEST_QUERY + 1;  // the stored numbers are not negative
constexpr int USERS_AT_ONCE = 8;
constexpr int ITEMS_OF_GROUP = LANES;
constexpr float ROUNDING = 1.5f / (1 << 24);

struct ItemTable {
  int items, width, stride, quads;  // quads: groups of four channels
  const float *vectors, *bias;      // [items, stride], [items]
  const int8_t* coded;              // [groups of items][quads][ITEMS_OF_GROUP][4]
  const int32_t* correction;        // [items padded]: -QUERY_OFFSET * sum of the coded numbers
  const float *step, *length, *error, *padded_bias;  // of each item, padded to whole groups
};

struct Candidate {
  float highest;  // the largest score that it may have
  int item;       // from 0
};

// Makes room for twice as many candidates of a user. False: out of memory.
typedef bool (*Grow)(void* owner, int user);

inline float exact_score(const ItemTable& table, int item, const float* x) {
  const float* vector = table.vectors + (size_t)item * table.stride;
  Vec total{};
  for (int j = 0; j < table.stride; j += LANES) total += load(vector + j) * load(x + j);
  return sum(total) + table.bias[item];
}

struct Query {
  const float* x;
  uint8_t coded[MAX_WIDTH];
  float step, length, error, coded_length;
};

inline void code_query(const ItemTable& table, const float* x, Query& query) {
  float top = 0, squares = 0, errors = 0, coded_squares = 0;
  for (int j = 0; j < table.width; j++) {
    float size = __builtin_fabsf(x[j]);
    top = size > top ? size : top;
  }
  query.x = x;
  query.step = top > 0 ? top / LARGEST_QUERY : 1.0f;
  for (int j = 0; j < 4 * table.quads; j++) {
    float value = j < table.width ? x[j] : 0.0f;
    int code = (int)__builtin_rintf(value / query.step);
    code = code > LARGEST_QUERY ? LARGEST_QUERY : code < -LARGEST_QUERY ? -LARGEST_QUERY : code;
    query.coded[j] = (uint8_t)(code + QUERY_OFFSET);
    float stands_for = code * query.step;
    squares += value * value;
    errors += (value - stands_for) * (value - stands_for);
    coded_squares += stands_for * stands_for;
  }
  query.length = __builtin_sqrtf(squares) * 1.0001f;
  query.error = __builtin_sqrtf(errors) * 1.0001f;
  query.coded_length = __builtin_sqrtf(coded_squares) * 1.0001f;
}

// sums[u][i]: products of the coded vectors of a group of items with each query, corrected.
template <int USERS>
inline void coded_products(const ItemTable& table, int group, const Query* const* query,
                           IntVec (&sums)[USERS]) {
  const int8_t* coded = table.coded + (size_t)group * table.quads * ITEMS_OF_GROUP * 4;
  IntVec correction;
  memcpy(&correction, table.correction + (size_t)group * ITEMS_OF_GROUP, sizeof correction);
  for (int u = 0; u < USERS; u++) sums[u] = correction;
  for (int quad = 0; quad < table.quads; quad++, coded += ITEMS_OF_GROUP * 4) {
#if defined(__AVX512VNNI__) && defined(__AVX512F__)
    __m512i items = _mm512_loadu_si512(coded);
#pragma GCC unroll 8
    for (int u = 0; u < USERS; u++) {
      int four;
      memcpy(&four, query[u]->coded + 4 * quad, 4);
      sums[u] = (IntVec)_mm512_dpbusd_epi32((__m512i)sums[u], _mm512_set1_epi32(four), items);
    }
#elif defined(__AVX512BW__)
    __m512i items = _mm512_loadu_si512(coded), ones = _mm512_set1_epi16(1);
#pragma GCC unroll 8
    for (int u = 0; u < USERS; u++) {
      int four;
      memcpy(&four, query[u]->coded + 4 * quad, 4);
      __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(four), items);
      sums[u] = (IntVec)_mm512_add_epi32((__m512i)sums[u], _mm512_madd_epi16(pairs, ones));
    }
#elif defined(__AVX2__)
    __m256i items = _mm256_loadu_si256((const __m256i*)coded), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int u = 0; u < USERS; u++) {
      int four;
      memcpy(&four, query[u]->coded + 4 * quad, 4);
      __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(four), items);
      sums[u] = (IntVec)_mm256_add_epi32((__m256i)sums[u], _mm256_madd_epi16(pairs, ones));
    }
#else
    for (int u = 0; u < USERS; u++) {
      const uint8_t* four = query[u]->coded + 4 * quad;
      for (int i = 0; i < ITEMS_OF_GROUP; i++)
        sums[u][i] += four[0] * coded[4 * i] + four[1] * coded[4 * i + 1] +
                      four[2] * coded[4 * i + 2] + four[3] * coded[4 * i + 3];
    }
#endif
  }
}

// A heap of the `capacity` largest numbers so far, the smallest of them first.
struct LargestNumbers {
  float* value;
  int count, capacity;

  float smallest() const { return count < capacity ? -__builtin_inff() : value[0]; }

  void add(float number) {
    int at;
    if (count < capacity) {
      at = count++;
      for (; at > 0 && value[(at - 1) / 2] > number; at = (at - 1) / 2)
        value[at] = value[(at - 1) / 2];
    } else {
      if (!(number > value[0])) return;
      at = 0;
      for (int child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && value[child + 1] < value[child]) child++;
        if (value[child] >= number) break;
        value[at] = value[child];
        at = child;
      }
    }
    value[at] = number;
  }
};

// One user's state while the table is read.
struct Search {
  Query query;
  LargestNumbers lower_bounds;
  Candidate* candidate;
  int count, capacity;
  const uint8_t* excluded;  // one bit for each item; null: none
};

inline bool is_set(const uint8_t* bits, int item) {
  return bits && (bits[item >> 3] >> (item & 7)) & 1;
}

// One bit for each lane in which a >= b.
inline unsigned not_less(Vec a, Vec b) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GE_OQ);
#else
  IntVec is = a >= b;
  unsigned bits = 0;
  for (int i = 0; i < LANES; i++) bits |= (unsigned)(is[i] & 1) << i;
  return bits;
#endif
}

// Collects the items that may be among the best of each user. False: out of memory.
template <int USERS>
inline bool screen(const ItemTable& table, Search* const* search, const uint8_t* allowed, Grow grow,
                   void* owner, int first_user) {
  const Query* query[USERS];
  Vec threshold[USERS];
  for (int u = 0; u < USERS; u++) {
    query[u] = &search[u]->query;
    threshold[u] = all(-__builtin_inff());
  }
  float rounding = ROUNDING * (table.width + 8);
  int groups = (table.items + ITEMS_OF_GROUP - 1) / ITEMS_OF_GROUP;
  for (int group = 0; group < groups; group++) {
    IntVec sums[USERS];
    coded_products<USERS>(table, group, query, sums);
    size_t at = (size_t)group * ITEMS_OF_GROUP;
    Vec step = load(table.step + at), length = load(table.length + at),
        error = load(table.error + at), bias = load(table.padded_bias + at);
    Vec size_of_bias = larger(bias, -bias);
    for (int u = 0; u < USERS; u++) {
      const Query& q = *query[u];
      Vec score = __builtin_convertvector(sums[u], Vec) * (step * all(q.step)) + bias;
      Vec bound = all(q.error + rounding * q.length) * length + all(q.coded_length) * error +
                  all(rounding) * size_of_bias;
      Vec highest = score + bound;
      unsigned possible = not_less(highest, threshold[u]);
      if (!possible) continue;
      Search& s = *search[u];
      float high[LANES], low[LANES];
      store(high, highest);
      store(low, score - bound);
      for (; possible; possible &= possible - 1) {
        int lane = __builtin_ctz(possible), item = (int)at + lane;
        if (item >= table.items) break;
        if (is_set(s.excluded, item) || (allowed && !is_set(allowed, item))) continue;
        if (s.count == s.capacity) {
          int kept = 0;
          for (int c = 0; c < s.count; c++)
            if (s.candidate[c].highest >= s.lower_bounds.smallest())
              s.candidate[kept++] = s.candidate[c];
          s.count = kept;
          if (kept > s.capacity / 2 && !grow(owner, first_user + u)) return false;
        }
        s.candidate[s.count++] = {high[lane], item};
        s.lower_bounds.add(low[lane]);
      }
      threshold[u] = all(s.lower_bounds.smallest());
    }
  }
  return true;
}

inline bool is_better(float score, int item, float other_score, int other_item) {
  return score > other_score || (score == other_score && item < other_item);
}

// Scores what the screen left and writes the best `k`, best first; ids start at 1, and an id of 0
// with a score of minus infinity marks that there are no more.
inline void rank_candidates(const ItemTable& table, Search& s, int k, int32_t* item_out,
                            float* score_out) {
  int count = 0;
  float least = s.lower_bounds.smallest();
  for (int c = 0; c < s.count; c++) {
    if (s.candidate[c].highest < least) continue;
    int item = s.candidate[c].item;
    float score = exact_score(table, item, s.query.x);
    if (count == k && !is_better(score, item + 1, score_out[k - 1], item_out[k - 1])) continue;
    int at = count < k ? count++ : k - 1;
    for (; at > 0 && is_better(score, item + 1, score_out[at - 1], item_out[at - 1]); at--) {
      score_out[at] = score_out[at - 1];
      item_out[at] = item_out[at - 1];
    }
    score_out[at] = score;
    item_out[at] = item + 1;
  }
  for (int i = count; i < k; i++) {
    item_out[i] = 0;
    score_out[i] = -__builtin_inff();
  }
}
