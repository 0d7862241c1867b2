// Vectors of one instruction set. Included by level.cpp alone, inside an anonymous namespace, so
// that no function of one level can be merged with that of another when the levels are linked.
#pragma once

#if defined(__AVX512F__)
constexpr int LANES = 16;                     // floats of a vector
constexpr int MAX_ROWS = 6, MAX_VECTORS = 4;  // a tile of sums that fits the registers
#elif defined(__AVX2__)
constexpr int LANES = 8;
constexpr int MAX_ROWS = 6, MAX_VECTORS = 2;
#else
constexpr int LANES = 4;
constexpr int MAX_ROWS = 4, MAX_VECTORS = 2;
#endif

typedef float Vec __attribute__((vector_size(LANES * 4)));
typedef float UnalignedVec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t IntVec __attribute__((vector_size(LANES * 4)));

inline Vec load(const float* from) { return *reinterpret_cast<const UnalignedVec*>(from); }
inline void store(float* to, Vec value) { *reinterpret_cast<UnalignedVec*>(to) = value; }
// x - 0 is x for every x, so this is a broadcast alone; 0 + x would also turn -0 into 0.
inline Vec all(float value) { return value - Vec{}; }
inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

// Sums the upper half onto the lower half, again and again.
inline float sum(Vec value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#elif defined(__AVX2__)
  __m128 half =
      _mm_add_ps(_mm256_castps256_ps128((__m256)value), _mm256_extractf128_ps((__m256)value, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
#else
  return (value[0] + value[2]) + (value[1] + value[3]);
#endif
}

inline float largest(Vec value) {
  float lane[LANES];
  store(lane, value);
  float result = lane[0];
  for (int i = 1; i < LANES; i++) result = lane[i] > result ? lane[i] : result;
  return result;
}

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }

// e to the power of `x`, for x <= 0; below -87 it is 0. Cephes' polynomial, error about 1e-7.
inline Vec exp_of_negative(Vec x) {
  const Vec lowest = all(-87.0f);
  IntVec is_zero = x < lowest;
  x = is_zero ? lowest : x;
  Vec n = x * all(1.44269504f);
  IntVec whole = __builtin_convertvector(n - all(0.5f), IntVec);  // to nearest, since n <= 0
  n = __builtin_convertvector(whole, Vec);
  x = x - n * all(0.693359375f);
  x = x + n * all(2.12194440e-4f);
  Vec p = all(1.9875691500e-4f);
  p = p * x + all(1.3981999507e-3f);
  p = p * x + all(8.3334519073e-3f);
  p = p * x + all(4.1665795894e-2f);
  p = p * x + all(1.6666665459e-1f);
  p = p * x + all(5.0000001201e-1f);
  p = p * x * x + x + all(1.0f);
  IntVec bits = (whole + 127) << 23;
  Vec result = p * (Vec)bits;  // the same bits
  return is_zero ? Vec{} : result;
}
