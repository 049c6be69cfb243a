import numpy as np

from samplers.batch_size import BatchSize, Cost

LENGTHS, COUNTS = np.asarray([4, 8, 16]), np.asarray([30, 50, 20])
CUBES = Cost.from_flops((length, float(length**3)) for length in LENGTHS.tolist())


def test_the_cost_of_a_length_is_that_of_its_most_expensive_sample_and_never_falls() -> None:
    cost = Cost.from_flops([(8, 7.0), (2, 3.0), (4, 1.0), (2, 2.0)])
    assert cost.of(np.asarray([2, 4, 8, 2])).tolist() == [3.0, 3.0, 7.0, 3.0]
    assert Cost().of(np.asarray([2, 4])).tolist() == [2.0, 4.0]


def test_a_fixed_number_needs_as_many_samples() -> None:
    assert BatchSize(4, fixed=60).of_runs(LENGTHS, COUNTS).tolist() == [60, 60, 0]


def test_a_budget_pays_the_longest_or_packed_the_mean_and_no_more_samples_than_there_are() -> None:
    assert BatchSize(4, budget=450).of_runs(LENGTHS, COUNTS).tolist() == [28, 28, 20]
    # Means: 840 tokens of 100 samples, 720 of 70, 320 of 20.
    assert BatchSize(4, budget=450, packed=True).of_runs(LENGTHS, COUNTS).tolist() == [52, 40, 20]
    assert BatchSize(1, budget=8192.0, cost=CUBES).of_runs(LENGTHS, COUNTS).tolist() == [2, 2, 2]
    assert BatchSize(4, budget=60).of_runs(LENGTHS, COUNTS).tolist() == [0, 0, 0]
