// Polynomials P_lm of the header and the gradient of a sum of them. Derivatives along a direction come from
// dual numbers: the same code, with T replaced by Dual<T>. Functions are constexpr, so that CUDA's kernels
// may call them too.
#pragma once
#include "edge_geometry/edge_geometry.hpp"

namespace pathtune::PATHTUNE_ISA {

// value + d epsilon, epsilon^2 = 0
template <class T>
struct Dual {
  T value, d;
};

template <class T>
constexpr Dual<T> operator+(Dual<T> a, Dual<T> b) {
  return {a.value + b.value, a.d + b.d};
}
template <class T>
constexpr Dual<T> operator-(Dual<T> a, Dual<T> b) {
  return {a.value - b.value, a.d - b.d};
}
template <class T>
constexpr Dual<T> operator*(Dual<T> a, Dual<T> b) {
  return {a.value * b.value, a.value * b.d + a.d * b.value};
}
template <class T>
constexpr Dual<T> operator*(T a, Dual<T> b) {
  return {a * b.value, a * b.d};
}

// A number of N's kind that does not vary.
template <class T>
constexpr T constant(T a, T) {
  return a;
}
template <class T>
constexpr Dual<T> constant(T a, Dual<T>) {
  return {a, T(0)};
}

constexpr int most_harmonics = (harmonics_most_l + 1) * (harmonics_most_l + 1);
constexpr double sqrt3 = 1.7320508075688772, sqrt15 = 3.872983346207417;
constexpr double sqrt5_2 = 1.5811388300841898, sqrt3_8 = 0.6123724356957945;  // of 5/2 and 3/8

// p[1 ..]: P_lm of l = 1 to l_max; l = 0 is one. N: T or Dual<T>.
template <class T, class N>
constexpr void harmonics(int l_max, N x, N y, N z, N* p) {
  if (l_max < 1) return;
  p[1] = x, p[2] = y, p[3] = z;
  if (l_max < 2) return;
  const N xx = x * x, yy = y * y, zz = z * z;
  p[4] = T(sqrt3) * (x * z), p[5] = T(sqrt3) * (x * y), p[6] = yy - T(0.5) * (xx + zz);
  p[7] = T(sqrt3) * (y * z), p[8] = T(sqrt3 / 2) * (zz - xx);
  if (l_max < 3) return;
  const N polar = T(sqrt3_8) * (T(4) * yy - xx - zz);
  p[9] = T(sqrt5_2 / 2) * (x * (T(3) * zz - xx)), p[10] = T(sqrt15) * (x * y * z), p[11] = polar * x;
  p[12] = T(0.5) * (y * (T(2) * yy - T(3) * (xx + zz))), p[13] = polar * z;
  p[14] = T(sqrt15 / 2) * (y * (zz - xx)), p[15] = T(sqrt5_2 / 2) * (z * (zz - T(3) * xx));
}

// h = sum_lm q_lm grad P_lm
template <class T, class N>
constexpr void gradient(int l_max, N x, N y, N z, const T* q, N* h) {
  const N zero = T(0) * x;
  h[0] = h[1] = h[2] = zero;
  if (l_max < 1) return;
  h[0] = constant(q[1], zero), h[1] = constant(q[2], zero), h[2] = constant(q[3], zero);
  if (l_max < 2) return;
  const T s3 = T(sqrt3);
  h[0] = h[0] + (s3 * q[4]) * z + (s3 * q[5]) * y - (q[6] + s3 * q[8]) * x;
  h[1] = h[1] + (s3 * q[5]) * x + (T(2) * q[6]) * y + (s3 * q[7]) * z;
  h[2] = h[2] + (s3 * q[4]) * x + (s3 * q[7]) * y + (s3 * q[8] - q[6]) * z;
  if (l_max < 3) return;
  const N xx = x * x, yy = y * y, zz = z * z, xy = x * y, yz = y * z, xz = x * z;
  const T c = T(sqrt5_2), k = T(sqrt3_8), s15 = T(sqrt15);
  const N cross = T(1.5 * sqrt5_2) * (zz - xx);
  h[0] = h[0] + q[9] * cross + (s15 * q[10]) * yz + (k * q[11]) * (T(4) * yy - T(3) * xx - zz) -
         (T(3) * q[12]) * xy - (T(2) * k * q[13]) * xz - (s15 * q[14]) * xy - (T(3) * c * q[15]) * xz;
  h[1] = h[1] + (s15 * q[10]) * xz + (T(8) * k * q[11]) * xy + q[12] * (T(3) * yy - T(1.5) * (xx + zz)) +
         (T(8) * k * q[13]) * yz + (s15 / 2 * q[14]) * (zz - xx);
  h[2] = h[2] + (T(3) * c * q[9]) * xz + (s15 * q[10]) * xy - (T(2) * k * q[11]) * xz - (T(3) * q[12]) * yz +
         (k * q[13]) * (T(4) * yy - xx - T(3) * zz) + (s15 * q[14]) * yz + q[15] * cross;
}

}  // namespace pathtune::PATHTUNE_ISA
