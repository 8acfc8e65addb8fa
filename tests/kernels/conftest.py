"""Kernels run on the GPU where there is one, and through Triton's CPU interpreter where there is none."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel's module is imported
