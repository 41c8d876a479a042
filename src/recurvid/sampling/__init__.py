"""Flow matching: sigmas, noise, solvers, guidance, objective. No model in sight.

One convention throughout: x_sigma = (1 - sigma) * data + sigma * noise, velocity = noise - data,
sigma runs from 1 (noise) down to 0 (data).
"""
