"""Training: configurations, recipes, the PPO loop, run folders."""
