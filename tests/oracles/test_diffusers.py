"""Solvers against the schedulers of diffusers, step by step: DDIM, DPM-Solver++(2M), its SDE form, DDPM.

Their coordinates are variance preserving, x_t = sqrt(abar) x_sigma; they work in float32 where noted.
"""

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from mri_minority.diffusion.kernel import sigma_from_abar
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import ONE_GROUP, Mixture, no_noise, no_strata, rare_world

STEPS = 12


def start_at(sigma: float) -> Tensor:
    return sigma * torch.randn(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def recorded(world: Mixture, name: str, x: Tensor, path: Tensor, noises: Tensor | None) -> list[Tensor]:
    """Our x_sigma after every step: the solver is run along longer and longer beginnings of the path."""

    def noise(step: int) -> Tensor:
        assert noises is not None
        return noises[step]

    source = no_noise if noises is None else noise
    runs = range(2, len(path) + 1)
    return [SOLVERS[name].run(world, x, path[:n], no_strata(x), ONE_GROUP, source) for n in runs]


def in_double(scheduler: DDIMScheduler | DDPMScheduler) -> Tensor:
    """Let a scheduler compute in float64; its alphas_cumprod."""
    scheduler.betas = scheduler.betas.double()
    scheduler.alphas = 1 - scheduler.betas
    scheduler.alphas_cumprod = scheduler.alphas.cumprod(dim=0)
    return scheduler.alphas_cumprod


def denoised(world: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
    return world(x, sigma.double().reshape(1, 1).expand(len(x), 1), no_strata(x))


def path_through(abars: Tensor, timesteps: Tensor) -> Tensor:
    """Noise levels at the scheduler's time steps, then zero."""
    return torch.cat([sigma_from_abar(abars[timesteps]), torch.zeros(1, dtype=torch.float64)])[:, None]


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_euler_is_ddim(schedule: str) -> None:
    """All twelve steps through a chain of 1000, in float64."""
    scheduler = DDIMScheduler(
        beta_schedule=schedule, beta_end=0.02, clip_sample=False, prediction_type="sample", set_alpha_to_one=True
    )
    abars, world = in_double(scheduler), rare_world()
    scheduler.set_timesteps(STEPS)
    path = path_through(abars, scheduler.timesteps)
    x = start_at(float(path[0]))
    ours = recorded(world, "euler", x, path, None)
    for step, t in enumerate(scheduler.timesteps):
        x_0 = denoised(world, x, path[step])
        x_t = scheduler.step(x_0, int(t), x * abars[t].sqrt(), eta=0.0, return_dict=False)[0]
        after = abars[scheduler.timesteps[step + 1]] if step + 1 < STEPS else torch.ones((), dtype=torch.float64)
        x = x_t / after.sqrt()
        torch.testing.assert_close(ours[step], x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_ancestral_is_ddpm(schedule: str) -> None:
    """Posterior mean and variance of every step, with their own noise; the last step is free of it."""
    scheduler = DDPMScheduler(
        beta_schedule=schedule, variance_type="fixed_small", clip_sample=False, prediction_type="sample"
    )
    abars, world = in_double(scheduler), rare_world()
    scheduler.set_timesteps(STEPS)
    path = path_through(abars, scheduler.timesteps)
    x = start_at(float(path[0]))
    generator = torch.Generator().manual_seed(1)
    noises = torch.stack([torch.randn(x.shape, generator=generator, dtype=torch.float64) for _ in range(STEPS)])
    ours = recorded(world, "ancestral", x, path, noises)
    generator.manual_seed(1)
    for step, t in enumerate(scheduler.timesteps):
        x_0 = denoised(world, x, path[step])
        x_t = scheduler.step(x_0, int(t), x * abars[t].sqrt(), generator=generator, return_dict=False)[0]
        after = abars[scheduler.timesteps[step + 1]] if step + 1 < STEPS else torch.ones((), dtype=torch.float64)
        x = x_t / after.sqrt()
        torch.testing.assert_close(ours[step], x, atol=1e-8, rtol=1e-8)


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # theirs: a tensor given to numpy.array
@pytest.mark.parametrize("spacing", ["linspace", "karras"])
@pytest.mark.parametrize(("name", "kind"), [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")])
def test_multistep_solvers_are_theirs(name: str, kind: str, spacing: str) -> None:
    """Second order from the second step on, first order into zero noise. They compute in float32."""
    scheduler = DPMSolverMultistepScheduler(
        algorithm_type=kind,
        solver_order=2,
        solver_type="midpoint",
        prediction_type="sample",
        final_sigmas_type="zero",
        euler_at_final=False,
        lower_order_final=True,
        use_karras_sigmas=spacing == "karras",
    )
    scheduler.set_timesteps(STEPS)
    sigmas, world = scheduler.sigmas.double(), rare_world()
    assert len(sigmas) == STEPS + 1
    assert float(sigmas[-1]) == 0
    x = start_at(float(sigmas[0]))
    noises = torch.randn(STEPS, *x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    stochastic = SOLVERS[name].order == 0
    ours = recorded(world, name, x, sigmas[:, None], noises if stochastic else None)
    for step, t in enumerate(scheduler.timesteps):
        x_0 = denoised(world, x, sigmas[step])
        alpha, after = (1 / (1 + sigmas[n] ** 2).sqrt() for n in (step, step + 1))
        drawn = noises[step].float() if stochastic else None
        x_t = scheduler.step(x_0, t, x * alpha, variance_noise=drawn, return_dict=False)[0]
        x = x_t.double() / after
        scale = float(sigmas[step + 1].clamp(min=1))
        torch.testing.assert_close(ours[step] / scale, x / scale, atol=2e-5, rtol=1e-5)
