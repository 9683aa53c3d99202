"""Sampling of points and search for near ones, with equal indices on ties as mmcv's CUDA kernels have them."""

import mmcv.ops
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mxd_mmplugin  # noqa: F401
from tests.mmcv_registry import reference
from tests.mmcv_registry.problems import lattice

seeds = st.integers(0, 2**16)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 70), st.integers(1, 12), st.integers(1, 8), seeds)
def test_furthest_point_sampling(batches, count, wanted, cells, seed):
    points = lattice(batches, count, seed=seed, cells=cells)
    sampled = mmcv.ops.furthest_point_sample(points, wanted)
    distances = [reference.squared_distances(p, p) for p in points.numpy()]
    assert sampled.tolist() == [reference.furthest_points(d, wanted) for d in distances]
    with_dist = mmcv.ops.furthest_point_sample_with_dist(
        torch.from_numpy(np.stack(distances)), wanted
    )
    assert torch.equal(with_dist, sampled) and sampled.dtype == torch.int32


def test_furthest_points_of_a_large_cloud():
    """More points than the threads of mmcv's kernel, and than one thread of ours takes."""
    points = lattice(1, 70_000, cells=40)
    sampled = mmcv.ops.furthest_point_sample(points, 4)[0].tolist()
    nearest = torch.full((70_000,), 1e10)
    for last, following in zip(sampled, sampled[1:]):
        nearest = torch.minimum(nearest, (points[0] - points[0, last]).square().sum(-1))
        ties = (nearest == nearest.max()).nonzero()[:, 0].tolist()
        assert following == min(ties, key=lambda k: (f'{k % 1024:010b}'[::-1], k))


def test_a_point_that_is_no_number_is_sampled_first():
    """In CUDA the minimum of a NaN and 1e10 is 1e10."""
    points = lattice(1, 20)
    points[0, 7] = float('nan')
    assert mmcv.ops.furthest_point_sample(points, 3)[0, 1] == 7


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 2),
    st.integers(1, 150),
    st.integers(1, 9),
    st.integers(1, 20),
    st.booleans(),
    seeds,
)
def test_ball_query(batches, count, centres, wanted, ring, seed):
    points, middles = lattice(batches, count, seed=seed), lattice(batches, centres, seed=seed + 1)
    middles[0, 0] = 90  # nothing is near
    low, high = (0.5, 1.0) if ring else (0.0, 0.75)
    found = mmcv.ops.ball_query(low, high, wanted, points, middles)
    for batch in range(batches):
        distances = reference.squared_distances(middles[batch].numpy(), points[batch].numpy())
        for row, wanted_row in zip(found[batch].tolist(), distances):
            assert row == reference.ball(wanted_row, low, high, wanted, [0] * wanted)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 6)), min_size=1, max_size=4),
    st.integers(1, 20),
    seeds,
)
def test_stacked_ball_query(sizes, wanted, seed):
    counts, centre_counts = (torch.tensor(column).int() for column in zip(*sizes))
    points, middles = lattice(int(counts.sum()), seed=seed), lattice(int(centre_counts.sum()))
    found = mmcv.ops.ball_query(0, 0.75, wanted, points, middles, counts, centre_counts)
    clouds = zip(points.split(counts.tolist()), middles.split(centre_counts.tolist()))
    expected = [
        reference.ball(row, 0, 0.75, wanted, [-1] + [0] * (wanted - 1))
        for cloud, centres in clouds
        for row in reference.squared_distances(centres.numpy(), cloud.numpy())
    ]
    assert found.tolist() == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(1, 150), st.integers(1, 9), st.integers(1, 40), seeds)
def test_knn(batches, count, centres, wanted, seed):
    points, middles = lattice(batches, count, seed=seed), lattice(batches, centres, seed=seed + 1)
    found = mmcv.ops.knn(wanted, points, middles)
    assert found.shape == (batches, wanted, centres) and found.dtype == torch.int32
    for batch in range(batches):
        distances = reference.squared_distances(middles[batch].numpy(), points[batch].numpy())
        expected = [reference.neighbours(row, wanted) for row in distances]
        assert found[batch].t().tolist() == expected
        for row, chosen in zip(distances, expected):
            assert sorted(row)[:wanted] == row[chosen[:count]].tolist()
    transposed = mmcv.ops.knn(wanted, points.transpose(1, 2), middles.transpose(1, 2), True)
    assert torch.equal(transposed, found)


def test_knn_of_wider_rows_reads_them_in_threes():
    """As mmcv's kernel does with the features of DGCNN."""
    rows = lattice(2, 60).flatten(1).view(2, 30, 6)
    points = rows.flatten()[: 2 * 30 * 3].view(2, 30, 3)
    assert torch.equal(mmcv.ops.knn(5, rows), mmcv.ops.knn(5, points))


def test_three_nn_of_wider_rows_reads_them_in_threes():
    """As mmcv's kernel does with SASSD's voxels, whose first number is the sample's."""
    rows, targets = lattice(1, 80).view(1, 60, 4), lattice(1, 20, seed=1).view(1, 15, 4)
    points, middles = rows.flatten()[:180].view(1, 60, 3), targets.flatten()[:45].view(1, 15, 3)
    for found, wanted in zip(mmcv.ops.three_nn(targets, rows), mmcv.ops.three_nn(middles, points)):
        assert torch.equal(found, wanted)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 2), st.integers(1, 150), st.integers(1, 9), seeds)
def test_three_nearest_points(batches, count, targets, seed):
    points, middles = lattice(batches, count, seed=seed), lattice(batches, targets, seed=seed + 1)
    distance, found = mmcv.ops.three_nn(middles, points)
    for batch in range(batches):
        distances = reference.squared_distances(middles[batch].numpy(), points[batch].numpy())
        for number, row in enumerate(distances):
            order = np.argsort(row, kind='stable')[:3]
            few = 3 - len(order)
            assert found[batch, number].tolist() == [*order, *[0] * few]
            near = np.sqrt(np.append(row[order], [np.inf] * few))
            np.testing.assert_allclose(distance[batch, number].numpy(), near, rtol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_have_the_same_indices(dtype):
    points, middles = lattice(2, 100), lattice(2, 9, seed=1)
    for function in (
        lambda p, m: mmcv.ops.furthest_point_sample(p, 20),
        lambda p, m: mmcv.ops.ball_query(0, 0.75, 8, p, m),
        lambda p, m: mmcv.ops.knn(5, p, m),
        lambda p, m: mmcv.ops.three_nn(m, p)[1],
    ):
        assert torch.equal(function(points.to(dtype), middles.to(dtype)), function(points, middles))


def test_any_number_of_threads_has_the_same_indices():
    points, middles = torch.rand(3, 9000, 3), torch.rand(3, 500, 3)
    threads = torch.get_num_threads()

    def all_of() -> list[torch.Tensor]:
        return [
            mmcv.ops.furthest_point_sample(points, 50),
            mmcv.ops.ball_query(0, 0.1, 8, points, middles),
            mmcv.ops.knn(5, points, middles),
            *mmcv.ops.three_nn(middles, points),
        ]

    first = all_of()
    try:
        torch.set_num_threads(3)
        assert all(map(torch.equal, all_of(), first))
    finally:
        torch.set_num_threads(threads)


def test_empty_sets():
    none, some = torch.zeros(2, 0, 3), torch.zeros(2, 4, 3)
    assert mmcv.ops.ball_query(0, 1, 3, none, some).tolist() == [[[0] * 3] * 4] * 2
    assert mmcv.ops.ball_query(0, 1, 3, some, none).shape == (2, 0, 3)
    assert mmcv.ops.knn(2, none, some).tolist() == [[[0] * 4] * 2] * 2
    assert mmcv.ops.three_nn(none, some)[1].shape == (2, 0, 3)
    assert mmcv.ops.furthest_point_sample(some, 0).shape == (2, 0)
    assert mmcv.ops.furthest_point_sample(torch.zeros(0, 4, 3), 2).shape == (0, 2)


@pytest.mark.parametrize(
    ('call', 'error', 'words'),
    [
        (
            lambda: mmcv.ops.furthest_point_sample(torch.zeros(1, 0, 3), 2),
            ValueError,
            'at least one',
        ),
        (
            lambda: mmcv.ops.furthest_point_sample(torch.zeros(1, 4, 2), 2),
            ValueError,
            r'\[1, 4, 3\]',
        ),
        (
            lambda: mmcv.ops.furthest_point_sample(torch.zeros(1, 4, 3).int(), 2),
            TypeError,
            'float32',
        ),
        (
            lambda: mmcv.ops.ball_query(0, 1, 2, torch.zeros(2, 4, 3), torch.zeros(1, 4, 3)),
            ValueError,
            'new_xyz must have shape',
        ),
        (
            lambda: mmcv.ops.ball_query(
                0,
                1,
                2,
                torch.zeros(4, 3),
                torch.zeros(4, 3),
                torch.tensor([5]).int(),
                torch.tensor([4]).int(),
            ),
            ValueError,
            'xyz_batch_cnt must sum up to the 4 rows of xyz, was 5',
        ),
        (
            lambda: mmcv.ops.three_nn(torch.zeros(1, 4, 3), torch.zeros(2, 4, 3)),
            ValueError,
            'known',
        ),
    ],
)
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()
