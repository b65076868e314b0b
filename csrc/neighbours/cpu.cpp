#include <algorithm>
#include <array>
#include <cmath>

#include "neighbours.hpp"

namespace pathtune {

namespace {

// The place of each receiver's first edge.
std::vector<int64_t> starts_of(const int64_t* i, const int64_t* j, int64_t n_pairs, int64_t n_atoms) {
  std::vector<int64_t> start(size_t(n_atoms) + 1, 0);
  for (int64_t p = 0; p < n_pairs; ++p) {
    ++start[size_t(i[p]) + 1];
    ++start[size_t(j[p]) + 1];
  }
  for (int64_t a = 0; a < n_atoms; ++a) start[size_t(a) + 1] += start[size_t(a)];
  return start;
}

struct Edge {
  int64_t sender;
  std::array<int64_t, 3> shift;
  int64_t pair;
  bool operator<(const Edge& other) const {
    return sender != other.sender ? sender < other.sender : shift < other.shift;
  }
};

double dot(const double* a, const double* b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; }

}  // namespace

bool is_apart_from_images(const double* positions, int64_t n_atoms, const double* cell, const bool* pbc,
                          double r_max) {
  for (int k = 0; k < 3; ++k) {
    if (!pbc[k]) continue;
    const double *a = cell + 3 * ((k + 1) % 3), *b = cell + 3 * ((k + 2) % 3);
    const double normal[3] = {a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2],
                              a[0] * b[1] - a[1] * b[0]};
    const double area = std::sqrt(dot(normal, normal));
    double least = dot(positions, normal), most = least;
    for (int64_t i = 1; i < n_atoms; ++i) {
      const double along = dot(positions + 3 * i, normal);
      least = std::min(least, along);
      most = std::max(most, along);
    }
    if (!(most - least + r_max * area < std::abs(dot(cell + 3 * k, normal)))) return false;
  }
  return true;
}

Pairs pairs_of_molecule(const double* positions, int64_t n_atoms, double r_max) {
  Pairs found;
  const double most = r_max * r_max;
  for (int64_t i = 0; i < n_atoms; ++i) {
    const double *a = positions + 3 * i, x = a[0], y = a[1], z = a[2];
    for (int64_t j = i + 1; j < n_atoms; ++j) {
      const double dx = positions[3 * j] - x, dy = positions[3 * j + 1] - y, dz = positions[3 * j + 2] - z;
      const double square = dx * dx + dy * dy + dz * dz;
      if (!(square < most)) continue;
      if (found.closest < 0 || square < found.closest_A2) {
        found.closest = int64_t(found.i.size());
        found.closest_A2 = square;
      }
      found.i.push_back(i);
      found.j.push_back(j);
    }
  }
  return found;
}

void fill_molecule(const Pairs& pairs, int64_t n_atoms, const Edges& edges) {
  const int64_t n_pairs = int64_t(pairs.i.size());
  std::vector<int64_t> next = starts_of(pairs.i.data(), pairs.j.data(), n_pairs, n_atoms);
  for (int64_t p = 0; p < n_pairs; ++p) {  // a receiver meets its senders in ascending order
    const int64_t ends[2] = {pairs.i[size_t(p)], pairs.j[size_t(p)]};
    for (int side = 0; side < 2; ++side) {
      const int64_t e = next[size_t(ends[side])]++;
      edges.receiver[e] = ends[side];
      edges.sender[e] = ends[1 - side];
      edges.pair[e] = p;
    }
  }
  std::fill_n(edges.unit_shifts, 6 * n_pairs, 0.0);
}

void fill_edges(const int64_t* i, const int64_t* j, const int64_t* shift, int64_t n_pairs, int64_t n_atoms,
                const Edges& edges) {
  const std::vector<int64_t> start = starts_of(i, j, n_pairs, n_atoms);
  std::vector<int64_t> next = start;
  std::vector<Edge> sorted(size_t(2 * n_pairs));
  for (int64_t p = 0; p < n_pairs; ++p) {
    const int64_t* s = shift + 3 * p;
    sorted[size_t(next[size_t(j[p])]++)] = {i[p], {s[0], s[1], s[2]}, p};
    sorted[size_t(next[size_t(i[p])]++)] = {j[p], {-s[0], -s[1], -s[2]}, p};
  }
  std::vector<int64_t> number(size_t(n_pairs), -1);
  int64_t n_numbered = 0;
  for (int64_t a = 0; a < n_atoms; ++a) {
    std::sort(sorted.begin() + start[size_t(a)], sorted.begin() + start[size_t(a) + 1]);
    for (int64_t e = start[size_t(a)]; e < start[size_t(a) + 1]; ++e) {
      const Edge& edge = sorted[size_t(e)];
      int64_t& mine = number[size_t(edge.pair)];
      if (mine < 0) mine = n_numbered++;
      edges.sender[e] = edge.sender;
      edges.receiver[e] = a;
      for (int axis = 0; axis < 3; ++axis) edges.unit_shifts[3 * e + axis] = double(edge.shift[size_t(axis)]);
      edges.pair[e] = mine;
    }
  }
}

}  // namespace pathtune
