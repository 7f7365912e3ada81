"""A basis that is learned: features that explain what earlier flights in other winds showed.

For each wind the force is linear in the features, with weights of its own; the features are the same in all. So gradient descent
makes features of which the controller then needs only the weights of the wind that it meets. The idea is that of O'Connell
et al., Neural-Fly Enables Rapid Learning for Agile Flight in Strong Winds, Science Robotics 2022, without its adversary.
"""

from __future__ import annotations

import numpy as np
import torch

from examples.adaptive_control.control import Basis, Controller
from examples.adaptive_control.plant import ACCELEROMETER, GRAVITY, MASS, Quadrotor, gusts, reference

WINDS = (0.0, 2.0, 4.0, 6.0, 8.0)
"""Of the flights that it is learned from, m/s; those that are judged are others."""

SEED = 100
"""Of their gusts and noise."""


def recorded(wind: float, steps: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States [steps, 4] as the basis reads them, and the force per mass [steps, 2] that the accelerometer showed under L1."""
    wind_x, wind_z = gusts(wind, steps, seed)
    noise = np.random.default_rng(seed + 1).normal(size=(steps, 2)) * ACCELEROMETER
    plant, controller = Quadrotor(), Controller("l1")
    states, forces = np.empty((steps, 4), np.float32), np.empty((steps, 2), np.float32)
    for i, want in enumerate(reference(steps).tolist()):
        ax, az = plant.ax + noise[i, 0], plant.az + noise[i, 1]
        lift = controller.thrust / MASS
        states[i] = plant.vx, plant.vz, plant.tilt, lift - GRAVITY
        forces[i] = ax - lift * np.sin(plant.tilt), az - lift * np.cos(plant.tilt) + GRAVITY
        commands = controller.step(plant.x, plant.z, plant.vx, plant.vz, plant.tilt, plant.rate, ax, az, want)
        plant.step(*commands, wind_x[i], wind_z[i])
    return torch.from_numpy(states), torch.from_numpy(forces)


def learned(steps: int, features: int, epochs: int = 300) -> Basis:
    """The same for the same steps, on the same machine and version of torch."""
    flights = [recorded(wind, steps, SEED + i) for i, wind in enumerate(WINDS)]
    x = torch.stack([states[1000::10] for states, _ in flights])
    y = torch.stack([forces[1000:].unfold(0, 10, 10).mean(2)[: x.shape[1]] for _, forces in flights])
    torch.manual_seed(0)
    basis, weights = Basis(features), torch.nn.Parameter(torch.zeros(len(flights), features, 2))
    optimizer = torch.optim.Adam([*basis.parameters(), weights], 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = (basis(x) @ weights - y).square().mean() + 1e-3 * weights.square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    return basis.eval()
