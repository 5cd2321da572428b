"""x"""
import torch
ITERATIONS = 3
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6}
