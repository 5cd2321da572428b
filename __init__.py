"""mnemic: train, stress and deploy reinforcement-learning agents that must remember.

Nothing is imported here, so `import mnemic` is instant; each part is imported by name (`mnemic.memory`, `mnemic.envs`).
"""

__version__ = "0.1.0"
