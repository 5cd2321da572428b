"""Linear attention against attention without softmax, its features, the window beside it, the short convolution."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mnemic.memory import make_config
from mnemic.memory.linear_attention import (
    Based,
    BasedConfig,
    LinearAttention,
    LinearAttentionConfig,
    feature_width,
    features,
)
from mnemic.memory.short_conv import ShortConv
from mnemic.memory.transformer import AttentionLayer


def never(steps: int, batch: int = 1) -> Tensor:
    return torch.zeros(steps, batch, dtype=torch.bool)


def test_taylor_features_by_hand() -> None:
    """K = 1: z = 2 * 3, so 1 + 6 + 18. K = 4: z = (2 - 3 + 0 + 5) / sqrt(4) = 2, so 1 + 2 + 2."""
    one, other = features(torch.tensor([2.0]), "taylor"), features(torch.tensor([3.0]), "taylor")
    torch.testing.assert_close(one @ other, torch.tensor(25.0))
    one, other = (torch.tensor(x) for x in ([2.0, -1.0, 0.0, 1.0], [1.0, 3.0, 7.0, 5.0]))
    torch.testing.assert_close(features(one, "taylor") @ features(other, "taylor"), torch.tensor(5.0))
    assert len(features(one, "taylor")) == feature_width(4, "taylor") == 15


def test_other_features_by_hand() -> None:
    x = torch.tensor([-torch.inf, 0.0, 2.0])
    assert features(x, "elu").tolist() == [0, 1, 3]
    assert features(x, "relu").tolist() == [0, 0, 2]


@pytest.mark.parametrize("kind", ["elu", "relu", "taylor"])
@pytest.mark.parametrize("normalise", [True, False])
def test_it_is_attention_with_products_of_features(kind: str, normalise: bool) -> None:
    torch.manual_seed(0)
    config = LinearAttentionConfig(width=6, heads=2, feature=kind, normalise=normalise, key_width=4)
    layer = LinearAttention(config).double()
    x = torch.randn(40, 6, dtype=torch.float64)
    query, key, value = (part(x).view(40, 2, -1).transpose(0, 1) for part in (layer.query, layer.key, layer.value))
    weight = (features(query, kind) @ features(key, kind).transpose(1, 2)).tril()  # type: ignore[arg-type]
    read = weight @ value
    mean = read / (weight.sum(-1, keepdim=True) + 1e-6)
    read = mean if normalise else F.rms_norm(read, (3,), eps=1e-6)
    want = layer.out(read.transpose(0, 1).flatten(1))
    got, _ = layer.unroll(x[:, None], layer.initial_state(1), never(40))
    torch.testing.assert_close(got[:, 0], want, rtol=1e-10, atol=1e-10)


def test_what_is_written_twice_is_read_as_a_mean() -> None:
    """Values 2 and 4 under one key: 2, then 3; it cannot overwrite."""
    layer = LinearAttention(LinearAttentionConfig(width=2, heads=1)).double()
    with torch.no_grad():
        layer.query.weight.zero_()
        layer.key.weight.zero_()
        layer.value.weight.copy_(torch.eye(2))
        layer.out.weight.copy_(torch.eye(2))
    x = torch.tensor([[2.0, 0.0], [4.0, 0.0]], dtype=torch.float64)[:, None]
    y, _ = layer.unroll(x, layer.initial_state(1), never(2))
    torch.testing.assert_close(y[:, 0, 0], torch.tensor([2.0, 3.0], dtype=torch.float64), rtol=1e-5, atol=0)


def test_a_window_is_attention_beside_the_sum() -> None:
    torch.manual_seed(0)
    core = Based(BasedConfig(width=8, heads=2, window=5)).double()
    x = torch.randn(20, 3, 8, dtype=torch.float64)
    start = torch.rand(20, 3) < 0.1
    near = AttentionLayer(8, 2, 5).double()
    near.load_state_dict(core.near.state_dict())
    want = near.unroll(x, near.initial_state(3), start)[0] + core.far.unroll(x, core.far.initial_state(3), start)[0]
    got, _ = core.unroll(x, core.initial_state(3), start)
    assert torch.equal(got, want)
    assert core.context_entries(100) == 5


@pytest.mark.parametrize("taps", [2, 4])
def test_a_short_convolution_is_one(taps: int) -> None:
    torch.manual_seed(0)
    conv = ShortConv(3, taps).double()
    x = torch.randn(10, 2, 3, dtype=torch.float64)
    # Torch has the oldest tap first.
    kernel = conv.weight_CD.flip(0).t()[:, None]
    want = F.silu(F.conv1d(F.pad(x.permute(1, 2, 0), (taps - 1, 0)), kernel, groups=3)).permute(2, 0, 1)
    got, last = conv(x, conv.initial_state(2), never(10, 2))
    torch.testing.assert_close(got, want)
    assert torch.equal(last, x[1 - taps :].transpose(0, 1))


def test_a_short_convolution_forgets_at_any_start() -> None:
    """Three trials in a window; what lies before is NaN."""
    torch.manual_seed(0)
    conv = ShortConv(2, 4)
    x, start = torch.randn(9, 1, 2), never(9)
    start[[2, 4]] = True
    pieces = [conv(x[at], conv.initial_state(1), never(len(x[at]))) for at in (slice(2, 4), slice(4, 9))]
    x[:2] = torch.nan
    got, last = conv(x, torch.full((1, 3, 2), torch.nan), start)
    torch.testing.assert_close(got[2:], torch.cat([y for y, _ in pieces]))
    assert torch.equal(last, pieces[1][1])
    _, young = conv(x[:5], torch.full((1, 3, 2), torch.nan), start[:5])
    assert torch.equal(young[0], torch.stack([torch.zeros(2), torch.zeros(2), x[4, 0]]))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="window is -1; give a number of steps, or 0 for none"):
        make_config("linear-attention", window=-1)
    with pytest.raises(ValueError, match="4 heads is 3 per head; the rotary positions of a window need an even number"):
        make_config("based", width=12)
    with pytest.raises(ValueError, match="conv is 1; give at least 2 steps, or 0 for none"):
        make_config("deltanet", conv=1)
    with pytest.raises(ValueError, match="key_width is -2; give a width, or 0 for width / heads"):
        make_config("mlstm", key_width=-2)
