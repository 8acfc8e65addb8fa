"""What is packed comes out as it went in, whatever its width and number format."""

import pytest
import torch

from baton.kernels.moe.wire import TokenRows, pack, packed_bytes, unpack


@pytest.mark.parametrize(
    ("hidden", "dtype"), [(10, torch.float32), (5, torch.bfloat16), (8, torch.float16), (1, torch.bfloat16)]
)
def test_tokens_survive_the_wire(hidden: int, dtype: torch.dtype) -> None:
    x = torch.randn(3, hidden).to(dtype)
    ids = torch.tensor([[0, 7], [-1, 3], [255, -1]])
    weights = torch.rand(3, 2)

    packed = pack(TokenRows(x, ids, weights))
    came = unpack(packed, hidden, 2, dtype)

    assert packed.nbytes == 3 * packed_bytes(hidden, 2, dtype)
    torch.testing.assert_close(came.x, x, rtol=0, atol=0)
    assert came.ids.tolist() == ids.tolist()
    assert came.weights.tolist() == weights.tolist()
