"""Whole-step benchmarks behind `pathtune bench`; the operators' benches stand in bench/."""
