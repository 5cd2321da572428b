import numpy as np
import pytest
import torch

from mnemic.envs.random import Stream, mix


def later(stream: Stream, moments: int) -> Stream:
    return Stream(stream.key, stream.clock + moments)


def chi_square(counts: torch.Tensor) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def test_mix_is_lowbias32() -> None:
    x = np.random.default_rng(0).integers(0, 2**32, 1000, dtype=np.uint32)
    x[:4] = 0, 1, 2**31, 2**32 - 1
    y = x.copy()
    y ^= y >> np.uint32(16)
    y *= np.uint32(0x7FEB352D)
    y ^= y >> np.uint32(15)
    y *= np.uint32(0x846CA68B)
    y ^= y >> np.uint32(16)
    wanted = y.astype(np.int64).tolist()
    assert mix(torch.from_numpy(x.astype(np.int64))).tolist() == wanted
    assert [mix(int(value)) for value in x] == wanted


@pytest.mark.parametrize("draw", ["bits", "integers", "uniform", "permutation", "choose"])
def test_a_row_depends_on_seed_and_place_only(draw: str) -> None:
    def drawn(batch: int) -> torch.Tensor:
        stream = later(Stream.seeded(7, batch, "cpu"), 3)
        return {
            "bits": lambda: stream.bits(5),
            "integers": lambda: stream.integers(5, 1000, 4),
            "uniform": lambda: stream.uniform(5, 4),
            "permutation": lambda: stream.permutation(5, 9),
            "choose": lambda: stream.choose(5, torch.ones(batch, 9, dtype=torch.bool), 4),
        }[draw]()

    assert torch.equal(drawn(3), drawn(300)[:3])


def test_seeds_share_no_rows() -> None:
    # Two seeds with the same rows in another order would be the same experiment twice.
    seeds = [0, 1, 2, 3, 255, 2**31, 2**32, 2**32 + 1, 2**63]
    keys = torch.cat([Stream.seeded(seed, 1024, "cpu").key for seed in seeds])
    assert len(keys.unique()) == len(keys)
    assert 0 <= int(keys.min()) <= int(keys.max()) < 2**32


def test_moments_slots_rows_and_places_in_a_draw_are_independent() -> None:
    stream = Stream.seeded(0, 4096, "cpu")
    base = stream.uniform(0, 2)
    for other in (stream.uniform(1, 2), later(stream, 1).uniform(0, 2), base.roll(1, 0), base.flip(1)):
        for column in range(2):
            correlation = torch.corrcoef(torch.stack([base[:, column], other[:, column]]))[0, 1]
            assert abs(float(correlation)) < 4 / 4096**0.5


@pytest.mark.parametrize("high", [2, 3, 10, 81])
def test_integers_are_uniform_over_rows_and_over_time(high: int) -> None:
    limit = high + 5 * (2 * high) ** 0.5 + 10
    over_rows = Stream.seeded(0, 40_000, "cpu").integers(0, high)
    stream = Stream.seeded(0, 1, "cpu")
    over_time = Stream(stream.key.expand(40_000), torch.arange(40_000)).integers(0, high)
    for drawn in (over_rows, over_time, Stream.seeded(0, 400, "cpu").integers(0, high, 100).flatten()):
        counts = torch.bincount(drawn, minlength=high).float()
        assert len(counts) == high
        assert chi_square(counts) < limit


def test_integers_below_a_bound_of_each_row() -> None:
    high = torch.arange(1, 2001)
    drawn = Stream.seeded(0, 2000, "cpu").integers(0, high)
    assert bool((drawn < high).all())
    assert int(drawn.max()) > 1500


def test_uniform_lies_in_zero_to_one() -> None:
    drawn = Stream.seeded(0, 1000, "cpu").uniform(0, 100)
    assert drawn.dtype == torch.float32
    assert 0 <= float(drawn.min()) < 1e-4
    assert 1 - 1e-4 < float(drawn.max()) < 1


def test_permutations_are_uniform() -> None:
    drawn = Stream.seeded(0, 24_000, "cpu").permutation(0, 4)
    assert torch.equal(drawn.sort(1).values, torch.arange(4).expand(24_000, 4))
    codes = (drawn * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1].float()
    assert len(counts) == 24
    assert chi_square(counts) < 65  # 23 degrees of freedom: beyond 6 standard deviations


@pytest.mark.parametrize("count", [1, 2])
def test_choose_takes_free_places_uniformly(count: int) -> None:
    free = torch.tensor([True, False, True, True, False, True]).expand(20_000, 6)
    drawn = Stream.seeded(0, 20_000, "cpu").choose(0, free, count)
    assert drawn.shape == (20_000, count)
    assert bool(free.gather(1, drawn).all())
    counts = torch.bincount(drawn[:, -1], minlength=6)[[0, 2, 3, 5]].float()
    assert chi_square(counts) < 25  # 3 degrees of freedom
    assert all(len(set(row)) == count for row in drawn[:100].tolist())


def test_drawing_changes_nothing() -> None:
    stream = Stream.seeded(3, 8, "cpu")
    before = [part.clone() for part in stream]
    assert torch.equal(stream.bits(0, 5), stream.bits(0, 5))
    assert all(torch.equal(a, b) for a, b in zip(before, stream, strict=True))
