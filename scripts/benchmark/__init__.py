"""What edged costs beside the model alone; `scripts/bench` runs it, docs/performance.md tells it."""
