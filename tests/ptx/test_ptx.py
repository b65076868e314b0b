import re
import pytest
import test_emulated_tiny as tiny
import torch

F32, F64 = torch.float32, torch.float64


def test_soft_threshold(interpreted):
    tiny.test_tiny_soft_threshold(F32, None)
    print(interpreted.launched)

def test_sampled(interpreted):
    tiny.test_tiny_sampled_gradient(F32, None)
    print(interpreted.launched)

def test_linear(interpreted):
    tiny.test_tiny_species_linear("ragged tails", F32, None)
    print(interpreted.launched)

def test_contraction(interpreted):
    tiny.test_tiny_symmetric_contraction("ragged tails", F32, None)
    print(interpreted.launched)

def test_conv(interpreted):
    interpreted.reads_unwritten = True
    tiny.test_tiny_edge_conv("ragged, joined", F32, None)
    print(interpreted.launched)
