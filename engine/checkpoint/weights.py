"""Reads a checkpoint's tensors in the form models compute with: cast, dequantised, fused, on the device.

Matrices are published `[out, in]` and multiplied here as `x @ W`, so projections are held `[in, out]`: with
few rows a CPU multiplies that layout about twice as fast.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ...kernels.linear import Fp8Weight, Weight
from .fp8 import SCALE_SUFFIX, dequantise, scale_shape
from .reader import Checkpoint, CheckpointError

KERNEL_BLOCK = (128, 128)
"""Rows and columns that share a factor in the weights that the FP8 kernels take."""

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the bytes done and the bytes in all."""


def ignore_progress(stage: str, done_bytes: int, total_bytes: int) -> None:
    """The progress callback of those who do not watch."""


class Weights:
    """One pass over a checkpoint for one model."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        fp8_block: tuple[int, int] | None,
        wanted: Callable[[str], bool],
        on_progress: OnProgress = ignore_progress,
        published_experts: bool = False,
        keep_fp8: bool = False,
    ) -> None:
        """Read from `checkpoint`.

        wanted             tells which tensors will be read and so count as progress
        published_experts  experts lie in memory as they are published, as a GPU's grouped products want them
        keep_fp8           block-FP8 weights of blocks that the kernels take stay as they are
        """
        self._checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._fp8_block = fp8_block
        self._on_progress = on_progress
        self.published_experts = published_experts
        self._keep_fp8 = keep_fp8 and fp8_block == KERNEL_BLOCK
        self._done_bytes = 0
        self._total_bytes = sum(checkpoint.entries[name].num_bytes for name in checkpoint if wanted(name))

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
        """Read one tensor as published, in the compute dtype or the one given."""
        return self._read(name, shape, dtype or self._dtype).to(self._device)

    def linear(self, parts: Sequence[tuple[str, int]], inputs: int) -> Weight:
        """Read what `projection` reads; FP8 stays FP8 where it is to be kept.

        One weight is made of several only if each but the last ends with a block; else they are dequantised.
        """
        sizes = [size for _, size in parts]
        if not self._keeps([name for name, _ in parts], sizes):
            return self.projection(parts, inputs)
        values, scales = zip(*(self._read_fp8(name, (size, inputs)) for name, size in parts), strict=True)
        return Fp8Weight(torch.cat(values), torch.cat(scales))

    def expert_fp8(
        self, prefix: str, owned: Sequence[int], parts: Sequence[tuple[str, int]], inputs: int
    ) -> tuple[Tensor, Tensor] | None:
        """Stack what `experts` stacks, in FP8 with its factors; None where it is not to be kept.

        returns  [len(owned), sum of outputs, inputs] float8_e4m3fn, and float32 factors of 128 x 128 each
        """
        names = [[f"{prefix}.{expert}.{name}" for name, _ in parts] for expert in owned]
        sizes = [size for _, size in parts]
        if not all(self._keeps(each, sizes) for each in names):
            return None
        read = [
            [self._read_fp8(name, (size, inputs)) for name, size in zip(each, sizes, strict=True)]
            for each in names
        ]
        values, scales = (
            torch.stack([torch.cat([part[kind] for part in each]) for each in read]) for kind in (0, 1)
        )
        return values, scales

    def _keeps(self, names: Sequence[str], sizes: Sequence[int]) -> bool:
        fused = all(size % KERNEL_BLOCK[0] == 0 for size in sizes[:-1])
        return self._keep_fp8 and fused and all(self._is_fp8(name) for name in names)

    def _is_fp8(self, name: str) -> bool:
        return self._checkpoint.entry(name).dtype == "F8_E4M3"

    def _read_fp8(self, name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        value = self._checkpoint.tensor(name, shape)
        scale = self._scale(name, shape)
        self._advance(name)
        return value.to(self._device), scale.to(self._device)

    def projection(self, parts: Sequence[tuple[str, int]], inputs: int) -> Tensor:
        """Read linear layers that share their input as one matrix `[inputs, sum of outputs]`.

        parts  name and number of outputs of each layer, in the order of the result's columns
        """
        outputs = sum(size for _, size in parts)
        matrix = torch.empty(inputs, outputs, dtype=self._dtype, device=self._device)
        for target, (name, size) in zip(
            torch.split(matrix, [size for _, size in parts], 1), parts, strict=True
        ):
            target.copy_(self._read(name, (size, inputs), self._dtype).t())
        return matrix

    def experts(
        self, prefix: str, owned: Sequence[int], parts: Sequence[tuple[str, int]], inputs: int
    ) -> Tensor:
        """Stack a projection of the owned experts: `[len(owned), sum of outputs, inputs]`; one may recur.

        Without `published_experts` it is a view of `[len(owned), inputs, sum of outputs]` in memory.
        """
        sizes = [size for _, size in parts]
        stacked = self._empty_stack(len(owned), sum(sizes), inputs)
        for index, expert in enumerate(owned):
            names = [(f"{prefix}.{expert}.{name}", size) for name, size in parts]
            for target, (name, size) in zip(torch.split(stacked[index], sizes), names, strict=True):
                target.copy_(self._read(name, (size, inputs), self._dtype))
        return stacked

    def _empty_stack(self, count: int, outputs: int, inputs: int) -> Tensor:
        if self.published_experts:
            return torch.empty(count, outputs, inputs, dtype=self._dtype, device=self._device)
        stacked = torch.empty(count, inputs, outputs, dtype=self._dtype, device=self._device)
        return stacked.transpose(1, 2)

    def _read(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        value = self._checkpoint.tensor(name, shape)
        if value.dtype is torch.float8_e4m3fn:
            value = self._dequantised(name, value, dtype)
        self._advance(name)
        return value.to(dtype)

    def _dequantised(self, name: str, value: Tensor, dtype: torch.dtype) -> Tensor:
        scale = self._scale(name, tuple(value.shape))
        assert self._fp8_block is not None
        return dequantise(value, scale, self._fp8_block, dtype)

    def _scale(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """Read the factors of a block-FP8 weight."""
        scale_name = name + SCALE_SUFFIX
        if scale_name not in self._checkpoint:
            file = self._checkpoint.entry(name).file
            raise CheckpointError(f"{file}: tensor {name} is FP8 but {scale_name} is missing")
        if self._fp8_block is None:
            raise CheckpointError(
                f"{self._checkpoint.folder}: tensor {name} is FP8 but config.json has no quantization_config"
            )
        scale = self._checkpoint.tensor(scale_name, scale_shape(shape, self._fp8_block))
        self._advance(scale_name)
        return scale.float()

    def _advance(self, name: str) -> None:
        self._done_bytes += self._checkpoint.entries[name].num_bytes
        self._on_progress("weights", self._done_bytes, self._total_bytes)
