"""Models that change while serving: packages, deployments, trials."""
