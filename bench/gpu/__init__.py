"""Kernels against their references and the GPU's own limits, and one GPU's share of DeepSeek-R1.

Needs torch, triton and this repository: nothing here imports the rest of the package but `kernels/`.
"""
