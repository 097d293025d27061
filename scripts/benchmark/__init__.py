"""What edged costs beside the model alone: run by `scripts/bench`, told in docs/performance.md."""
