"""Split one budget over problems from Python, without a model, a bank or a run folder.

python examples/split_a_budget.py
"""

import numpy as np

from ttc.allocate import Curves, at_grants, knapsack

# The chance that one sample of 120 tokens is right, for five problems; up to 16 samples each are on offer.
rates = [0.02, 0.15, 0.3, 0.6, 0.95]
curves = Curves.from_success(rates, sample_tokens=120, samples=range(1, 17))
best = knapsack(curves, total_tokens=3000)

even = at_grants(curves, np.full(len(rates), 3000 // len(rates)), total_tokens=3000)

print("rate   even  knapsack (tokens)")
for rate, a, b in zip(rates, even.grants, best.grants, strict=True):
    print(f"{rate:4.2f}  {a:5}  {b:8}")
print(f"expected right answers: {even.value:.2f} split evenly, {best.value:.2f} by knapsack (at most {best.bound:.2f})")
