from datasets.seeding import derive_seed


def test_golden_seed():
    # Fixed for good: every stored result names its random streams through this function.
    assert derive_seed("forget", "cifar10", 0) == 1_890_944_382_939_925_754


def test_every_part_and_the_order_count():
    seeds = {derive_seed(*parts) for parts in [("a", 0), (0, "a"), ("a", 1), ("a",), ("a", "0"), ("a0",), ()]}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)
