"""Names of the classes of the digits, in the order of their labels; imports nothing."""

CLASSES = tuple(f"{way}_{digit}" for way in ("upright", "lying") for digit in range(10))
PAIRS = ((0, 6), (1, 7), (2, 3), (4, 9), (5, 8))
SUPERCLASSES = tuple(f"{a}_{b}" for a, b in PAIRS)
SUPERCLASS_OF = tuple(next(i for i, pair in enumerate(PAIRS) if label % 10 in pair) for label in range(20))
