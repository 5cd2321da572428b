"""The agent: encoder, policy, losses, and its checkpoints."""
