"""What an agent's memory holds, for how long, and what long lives do to it: probes, norms and half-lives.

A recording (`record`) of the agent at its task is cut into contents (`contents`), which linear probes (`probe`) look
for in what the agent remembers (`curves`); units are timed by how long a deviation lasts (`timescales`); and a second
play, in which nothing is forgotten, shows whether the state outgrows what training knew (`norms`).
"""
