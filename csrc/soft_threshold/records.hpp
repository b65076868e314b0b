// What soft_threshold gets from Python: python/pathtune/ops/soft_threshold.py.
#pragma once
#include <vector>

#include "record.hpp"
#include "soft_threshold/soft_threshold.hpp"

namespace pathtune {

namespace record {
PATHTUNE_RECORD(ThresholdRecord, n_candidates, values, thresholds, segment, indices, base, effective, delta)
}  // namespace record

template <class T>
std::vector<ThresholdedLayer<T>> thresholded_layers(const std::vector<record::ThresholdRecord>& records) {
  std::vector<ThresholdedLayer<T>> layers;
  for (const auto& given : records)
    layers.push_back({.n_candidates = given.n_candidates,
                      .values = at<const T>(given.values),
                      .thresholds = at<const T>(given.thresholds),
                      .segment = at<const int64_t>(given.segment),
                      .indices = at<const int64_t>(given.indices),
                      .base = at<const T>(given.base),
                      .effective = at<T>(given.effective),
                      .delta = at<T>(given.delta),
                      .n_active = 0,
                      .n_changed = 0});
  return layers;
}

}  // namespace pathtune
