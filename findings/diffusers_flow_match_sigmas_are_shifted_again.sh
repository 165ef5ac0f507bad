#!/usr/bin/env bash
# diffusers 0.42.1 (torch 2.13.0): FlowMatchEulerDiscreteScheduler shifts the noise levels that it has shifted before.
#
# SD 3's levels are s(u) = shift·u / (1 + (shift - 1)·u) of evenly spaced u from 1 down to 0.001. One would expect that
# `set_timesteps(n)` gives s at n such places, and that a list of `sigmas`, given in place of n, is used as it is: the
# argument is told to be the custom levels. But the lowest level that the scheduler keeps is s(0.001) already, places
# are spaced between it and 1, and s is taken of them once more; and s is taken of a list that is given, too.
#
# Seen, with shift 3:
#   lowest of 10 levels 0.00893, by the formula 0.00299
#   a schedule handed back as `sigmas`: 0.4649 became 0.7227
# Whoever repeats a run's schedule must hand its levels back with the shift undone, and whoever trains a flow on the
# levels that sampling asks must not take them from the formula.
#
# Ends with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 diffusers==0.42.1 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2> /dev/null
import torch
from diffusers import FlowMatchEulerDiscreteScheduler


def made():
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)


def shifted(u):
    return 3 * u / (1 + 2 * u)


first, again = made(), made()
first.set_timesteps(10)
levels = first.sigmas[:-1]  # a 0 stands behind them
lowest = shifted(0.001)
print(f"lowest of 10 levels {levels[-1]:.5f}, by the formula {lowest:.5f}")
assert abs(levels[-1] - shifted(lowest)) < 1e-5 and levels[-1] > 2.5 * lowest

again.set_timesteps(sigmas=levels.tolist())
print(f"a schedule handed back as `sigmas`: {levels[7]:.4f} became {again.sigmas[7]:.4f}")
assert torch.allclose(again.sigmas[:-1], shifted(levels), atol=1e-5)
assert (again.sigmas[:-1] - levels).abs().max() > 0.2
PYTHON
