// The transforms of Winograd's F(4x4, 3x3) (Lavin and Gray 2016) along one axis; lanes are tiles or
// channels. With the points 0, +-sqrt(1/2), +-sqrt(2) and infinity the rounding error is half of that
// with 0, +-1, +-2.
#pragma once

#include "simd.h"

namespace sg3flow {
namespace SG3FLOW_ISA {

constexpr int kPlaces = 36;  // of a tile in two dimensions

constexpr float kP = 0.70710678118654752f, kQ = 1.41421356237309505f;  // kP^2 = 1/2, kQ^2 = 2

inline void transform_input(const Vec* d, Vec* v) {
  const Vec odd_p = kP * d[3] - kQ * d[1], even_p = d[4] - 2.f * d[2];
  const Vec odd_q = kQ * d[3] - kP * d[1], even_q = d[4] - 0.5f * d[2];
  v[0] = d[0] - 2.5f * d[2] + d[4];
  v[1] = even_p + odd_p;
  v[2] = even_p - odd_p;
  v[3] = even_q + odd_q;
  v[4] = even_q - odd_q;
  v[5] = d[1] - 2.5f * d[3] + d[5];
}

inline void transform_output(const Vec* m, Vec* y) {
  const Vec sum_p = m[1] + m[2], gap_p = m[1] - m[2], sum_q = m[3] + m[4], gap_q = m[3] - m[4];
  y[0] = m[0] + sum_p + sum_q;
  y[1] = kP * gap_p + kQ * gap_q;
  y[2] = 0.5f * sum_p + 2.f * sum_q;
  y[3] = 0.5f * kP * gap_p + 2.f * kQ * gap_q + m[5];
}

inline void transform_taps(const Vec* g, Vec* u) {
  constexpr float third = 1.f / 3;
  const Vec even_p = third * (2.f * g[0] + g[2]), odd_p = 2.f * third * kP * g[1];
  const Vec even_q = third * (0.5f * g[0] + g[2]), odd_q = 0.5f * third * kQ * g[1];
  u[0] = g[0];
  u[1] = -even_p - odd_p;
  u[2] = odd_p - even_p;
  u[3] = even_q + odd_q;
  u[4] = even_q - odd_q;
  u[5] = g[2];
}

// the transpose of transform_output
inline void transform_gradient(const Vec* y, Vec* m) {
  const Vec even_p = y[0] + 0.5f * y[2], odd_p = kP * y[1] + 0.5f * kP * y[3];
  const Vec even_q = y[0] + 2.f * y[2], odd_q = kQ * y[1] + 2.f * kQ * y[3];
  m[0] = y[0];
  m[1] = even_p + odd_p;
  m[2] = even_p - odd_p;
  m[3] = even_q + odd_q;
  m[4] = even_q - odd_q;
  m[5] = y[3];
}

// the transpose of transform_taps
inline void gather_taps(const Vec* u, Vec* g) {
  constexpr float third = 1.f / 3;
  const Vec sum_p = u[1] + u[2], gap_p = u[1] - u[2], sum_q = u[3] + u[4], gap_q = u[3] - u[4];
  g[0] = u[0] + third * (0.5f * sum_q - 2.f * sum_p);
  g[1] = third * (0.5f * kQ * gap_q - 2.f * kP * gap_p);
  g[2] = u[5] + third * (sum_q - sum_p);
}

}  // namespace SG3FLOW_ISA
}  // namespace sg3flow
