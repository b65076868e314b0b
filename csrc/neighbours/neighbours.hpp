// Edges of a structure from its pairs: each pair within r_max becomes an edge and its reverse, sorted by
// receiver, then sender, then shift; `pair` numbers the pairs by the place of their first edge. On the host,
// without Python's lock: a thread reads structures ahead of the training, which takes the lock at every
// operator.
#pragma once
#include <cstdint>
#include <vector>

namespace pathtune {

struct Pairs {  // each once
  std::vector<int64_t> i, j;
  int64_t closest = -1;   // of all, -1 where there are none
  double closest_A2 = 0;  // its squared distance, A^2
};

// Whether no atom is within r_max of an image of another or itself. Along each periodic direction k, of unit
// normal n_k and height h_k, max(p n_k) - min(p n_k) + r_max < h_k is enough; false where that cannot be
// said. Positions [n_atoms, 3] A; cell [3, 3] A, vectors in rows.
bool is_apart_from_images(const double* positions, int64_t n_atoms, const double* cell, const bool* pbc,
                          double r_max);

// Of a structure of which that is true. All n_atoms (n_atoms - 1) / 2 distances: for few atoms.
Pairs pairs_of_molecule(const double* positions, int64_t n_atoms, double r_max);

// Where the edges go, 2 n_pairs of each.
struct Edges {
  int64_t* sender;
  int64_t* receiver;
  double* unit_shifts;  // [2 n_pairs, 3]; the receiver's image seen from the sender, in cell vectors
  int64_t* pair;
};

// Pairs in ascending order of i, then j, with i < j and without shifts.
void fill_molecule(const Pairs& pairs, int64_t n_atoms, const Edges& edges);

// Pairs in any order; shift [n_pairs, 3]: j's cell seen from i's.
void fill_edges(const int64_t* i, const int64_t* j, const int64_t* shift, int64_t n_pairs, int64_t n_atoms,
                const Edges& edges);

}  // namespace pathtune
