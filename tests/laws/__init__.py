"""Laws that every implementation of an operator obeys, each written once.

A class of laws is made a class of tests in tests/ops, where the fixtures `kernels` and `all_kernels` are the CPU's
kernels, and in tests/emulation, where they are the emulated CUDA kernels.
"""
