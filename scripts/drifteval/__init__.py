"""The parts of scripts/eval-drift: pictures, a pool of samples, camera days, baselines, tables."""
