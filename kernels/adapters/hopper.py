"""The GPUs that adapters are for: Hopper, whose formats of factors and caches they share with us."""

import torch

HOPPER = 9


def is_hopper(device: torch.device) -> bool:
    """Whether the device is of Hopper's generation; what is no GPU is taken for one, to try adapters on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device)[0] == HOPPER
