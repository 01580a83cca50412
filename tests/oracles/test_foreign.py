"""Models of others: exact networks in time steps become the exact posterior mean in noise levels."""

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler as DiffusersDDIM
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler as DiffusersDDPM
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from mri_minority.backbones.diffusers_folder import alphas_cumprod, diffusers_denoiser
from mri_minority.backbones.foreign import PREDICTIONS, ForeignDenoiser, monai_denoiser
from mri_minority.core.errors import DataError, UsageError
from mri_minority.core.types import Batch, Strata
from mri_minority.diffusion.denoiser import Denoiser
from mri_minority.diffusion.guidance import Guided
from mri_minority.diffusion.kernel import ChannelGroups, sigma_from_abar, sigma_path
from mri_minority.diffusion.solvers import SOLVERS
from tests.support.worlds import ONE_GROUP, IsotropicGaussian, Mixture, no_noise, no_strata, rare_world

CHAIN = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(dim=0)


class ExactNetwork:
    """What an exact network predicts at a (fractional) time step of a chain, from the textbook definitions.

    ln sigma between two steps is linear, which is what a fractional time step means here.
    """

    def __init__(self, world: Mixture | IsotropicGaussian, prediction: str, abars: Tensor) -> None:
        self.world, self.prediction, self.ladder = world, prediction, ((1 - abars) / abars).sqrt().log()
        self.steps: list[Tensor] = []

    def __call__(self, x_t: Batch, step: Tensor, stratum: Strata) -> Tensor:
        self.steps.append(step)
        step = step.double()
        low = step.floor().long().clamp(max=len(self.ladder) - 2)
        sigma = (self.ladder[low] + (step - low) * (self.ladder[low + 1] - self.ladder[low])).exp()
        abar = 1 / (1 + sigma**2)[:, None, None, None]
        alpha, beta = abar.sqrt(), (1 - abar).sqrt()
        x_0 = self.world(x_t / alpha, sigma[:, None], stratum)
        eps = (x_t - alpha * x_0) / beta
        return {"epsilon": eps, "sample": x_0, "v_prediction": alpha * eps - beta * x_0}[self.prediction]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("world", [IsotropicGaussian(0.2, 0.5), rare_world()], ids=["gaussian", "mixture"])
def test_every_prediction_is_the_exact_posterior_mean(world: Mixture, prediction: str) -> None:
    """At noise levels on the chain and between, each item at its own."""
    denoiser = ForeignDenoiser(ExactNetwork(world, prediction, CHAIN), CHAIN, prediction, ONE_GROUP)
    sigma = torch.tensor([[0.0101], [0.05], [0.5], [1.0], [2.5], [20.0], [100.0], [0.77]], dtype=torch.float64)
    x = torch.randn(8, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * (
        1 + sigma[..., None, None]
    )
    found = denoiser(x, sigma, no_strata(x))
    torch.testing.assert_close(found, world(x, sigma, no_strata(x)), atol=1e-9, rtol=1e-9)
    assert isinstance(denoiser, Denoiser)


def test_time_steps_of_noise_levels() -> None:
    """A level of the chain is its step; half-way in ln sigma is half a step; the ends hold; beyond is refused."""
    denoiser = ForeignDenoiser(lambda x, t, s: x, CHAIN, "sample", ONE_GROUP)
    ladder = sigma_from_abar(CHAIN)
    steps = torch.tensor([0, 1, 17, 500, 998, 999])
    torch.testing.assert_close(denoiser.time_step(ladder[steps]), steps.double(), atol=1e-9, rtol=0)
    between = (ladder[40] * ladder[41]).sqrt()[None]
    assert float(denoiser.time_step(between)) == pytest.approx(40.5)
    assert float(denoiser.time_step(torch.tensor([1e-4]))) == 0
    assert float(denoiser.time_step(torch.tensor([0.0]))) == 0
    assert float(denoiser.time_step(ladder[-1:] * 1.04)) == pytest.approx(999)
    with pytest.raises(ValueError, match=r"up to 157.*lower sigma_max"):
        denoiser.time_step(ladder[-1:] * 1.1)
    rounding = ForeignDenoiser(lambda x, t, s: x, CHAIN, "sample", ONE_GROUP, nearest=True)
    assert float(rounding.time_step(ladder[40:41] * 1.0001)) == 40


def test_nearest_rounds_what_the_network_hears_only() -> None:
    """A network that ignores the time gives the exact answer still: x_t is scaled by the exact sigma."""
    heard: list[Tensor] = []

    def network(x_t: Batch, step: Tensor, stratum: Strata) -> Tensor:
        heard.append(step)
        return torch.full_like(x_t, 0.5)

    denoiser = ForeignDenoiser(network, CHAIN, "epsilon", ONE_GROUP, nearest=True)
    sigma = torch.tensor([[0.313]], dtype=torch.float64)
    x = torch.ones(1, 1, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, sigma, no_strata(x)), x - 0.313 * 0.5)
    assert heard[0].dtype == torch.long


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_guidance_on_a_wrapped_model_reaches_the_rare_level(prediction: str) -> None:
    """Somebody's exact network, our classifier: at w = 1 nearly all draws are rare, unguided 4 %."""
    world, n = rare_world(), 400
    foreign = ForeignDenoiser(ExactNetwork(world, prediction, CHAIN), CHAIN, prediction, ONE_GROUP)
    start = 80 * torch.randn(n, 1, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = sigma_path(80.0, 0.02, 40, 1)
    masses = []
    for weight in (0.0, 1.0):
        guided = Guided(foreign, lambda x, sigma, stratum: world.log_p(x, sigma, 1), weight, ONE_GROUP)
        found = SOLVERS["heun"].run(guided, start, path, no_strata(start), ONE_GROUP, no_noise)
        masses.append(float(world.log_p(found, torch.full((n, 1), 0.02), 1).exp().mean()))
    assert masses[0] < 0.1
    assert masses[1] > 0.95


def test_what_cannot_be_wrapped_says_so() -> None:
    network = lambda x, t, s: x  # noqa: E731
    for abars in (CHAIN.flip(0), torch.tensor([0.5]), torch.tensor([0.9, 0.5, 0.0]), torch.tensor([1.0, 0.5])):
        with pytest.raises(ValueError, match="alphas_cumprod falling"):
            ForeignDenoiser(network, abars, "sample", ONE_GROUP)
    with pytest.raises(ValueError, match="got 'score'"):
        ForeignDenoiser(network, CHAIN, "score", ONE_GROUP)
    joint = ForeignDenoiser(network, CHAIN, "sample", ChannelGroups((1, 1)))
    with pytest.raises(ValueError, match="one noise level for all channels"):
        joint(torch.zeros(1, 2, 2, 2), torch.tensor([[1.0, 0.5]]), torch.zeros(1, dtype=torch.long))


# MONAI.


@pytest.fixture(scope="module")
def monai_net() -> DiffusionModelUNet:
    torch.manual_seed(0)
    net = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=2,
        out_channels=2,
        channels=(32, 32),
        attention_levels=(False, False),
        num_res_blocks=1,
        num_head_channels=32,
        num_class_embeds=3,
    )
    for parameter in net.out.parameters():  # MONAI begins with an output of zero
        torch.nn.init.normal_(parameter, std=0.1)
    return net.eval().requires_grad_(False)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_monai_network_and_scheduler(monai_net: DiffusionModelUNet, prediction: str) -> None:
    """A step of Euler with the wrapped network is the DDIM step of MONAI's own scheduler with the bare one."""
    scheduler = DDIMScheduler(50, schedule="linear_beta", beta_end=0.1, clip_sample=False, prediction_type=prediction)
    scheduler.set_timesteps(50)
    foreign = monai_denoiser(monai_net, scheduler)
    generator = torch.Generator().manual_seed(2)
    stratum = torch.tensor([0, 2, 1])
    for t in (49, 20, 3):
        abar, after = scheduler.alphas_cumprod[t], scheduler.alphas_cumprod[t - 1]
        x_t = torch.randn(3, 2, 16, 16, generator=generator)
        said = monai_net(x_t, timesteps=torch.full((3,), float(t)), class_labels=stratum)
        theirs, _ = scheduler.step(said, t, x_t)
        path = sigma_from_abar(torch.stack([abar, after]))[:, None]
        ours = SOLVERS["euler"].run(foreign, x_t / abar.sqrt(), path, stratum, ChannelGroups((2,)), no_noise)
        torch.testing.assert_close(ours * after.sqrt(), theirs, atol=2e-4, rtol=1e-4)


def test_guidance_moves_a_monai_model(monai_net: DiffusionModelUNet) -> None:
    """Gradients of a classifier reach samples of a wrapped network; self-guidance can go through it."""
    foreign = monai_denoiser(monai_net, DDPMScheduler(100, beta_end=0.1), nearest=True)
    groups, path = ChannelGroups((2,)), sigma_path(5.0, 0.05, 6, 1)
    start = 5 * torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(3))
    found = []
    for weight in (0.0, 1.0):
        guided = Guided(foreign, lambda x, sigma, stratum: 0.05 * x[:, 0].sum(dim=(1, 2)), weight, groups)
        found.append(SOLVERS["euler"].run(guided, start, path, no_strata(start), groups, no_noise))
    assert float((found[1] - found[0])[:, 0].mean()) > 0.1
    x = start.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(foreign(x, torch.full((2, 1), 2.0), no_strata(x)).sum(), x)
    assert float(gradient.abs().max()) > 0


def test_a_network_with_learnt_variance_is_refused() -> None:
    net = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=2,
        channels=(32,),
        attention_levels=(False,),
        num_res_blocks=1,
        num_head_channels=32,
    )
    with pytest.raises(ValueError, match="1 in and 2 out"):
        monai_denoiser(net, DDPMScheduler(10))


# diffusers.


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_chains_of_diffusers(schedule: str) -> None:
    for steps, end in ((1000, 0.02), (50, 0.1)):
        scheduler = DiffusersDDPM(steps, beta_end=end, beta_schedule=schedule)
        found = alphas_cumprod(json.loads(scheduler.to_json_string()))
        torch.testing.assert_close(found, scheduler.alphas_cumprod.double(), atol=1e-6, rtol=2e-4)
    betas = [0.1, 0.2, 0.3]
    torch.testing.assert_close(alphas_cumprod({"trained_betas": betas})[-1], torch.tensor(0.9 * 0.8 * 0.7).double())
    assert len(alphas_cumprod({})) == 1000
    with pytest.raises(DataError, match="found 'sigmoid'"):
        alphas_cumprod({"beta_schedule": "sigmoid"})
    with pytest.raises(DataError, match="zero terminal SNR"):
        alphas_cumprod({"rescale_betas_zero_snr": True})


@pytest.fixture(scope="module")
def diffusers_net() -> UNet2DModel:
    torch.manual_seed(1)
    net = UNet2DModel(
        sample_size=16,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    return net.eval()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("layout", ["pipeline", "bare"])
def test_diffusers_folder(diffusers_net: UNet2DModel, prediction: str, layout: str, tmp_path: Path) -> None:
    """Saved by diffusers, read by us: a step of Euler is the step of their DDIM scheduler with their network."""
    scheduler = DiffusersDDIM(100, beta_end=0.1, clip_sample=False, prediction_type=prediction, set_alpha_to_one=True)
    unet, beside = (tmp_path / "unet", tmp_path / "scheduler") if layout == "pipeline" else (tmp_path, tmp_path)
    diffusers_net.save_pretrained(unet, safe_serialization=True)
    scheduler.save_pretrained(beside)
    foreign = diffusers_denoiser(tmp_path)
    scheduler.set_timesteps(100)
    x_t = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        for t in (99, 40, 2):
            theirs = scheduler.step(diffusers_net(x_t, t).sample, t, x_t, return_dict=False)[0]
            abar, after = scheduler.alphas_cumprod[[t, t - 1]]
            path = sigma_from_abar(torch.stack([abar, after]))[:, None]
            ours = SOLVERS["euler"].run(foreign, x_t / abar.sqrt(), path, no_strata(x_t), ONE_GROUP, no_noise)
            torch.testing.assert_close(ours * after.sqrt(), theirs, atol=2e-4, rtol=1e-4)


def test_wrong_diffusers_folders(diffusers_net: UNet2DModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing files, another network, only pickled weights, diffusers not installed: each in a clear sentence."""
    with pytest.raises(DataError, match="scheduler_config"):
        diffusers_denoiser(tmp_path)
    DiffusersDDPM(10).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"config\.json; a folder needs"):
        diffusers_denoiser(tmp_path)
    diffusers_net.save_pretrained(tmp_path, safe_serialization=True)
    weights, config = tmp_path / "diffusion_pytorch_model.safetensors", tmp_path / "config.json"
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(DataError, match="only safetensors are read"):
        diffusers_denoiser(tmp_path)
    said = json.loads(config.read_text())
    config.write_text(json.dumps({**said, "_class_name": "UNet2DConditionModel"}))
    with pytest.raises(DataError, match="found UNet2DConditionModel"):
        diffusers_denoiser(tmp_path)
    config.write_text(json.dumps({**said, "out_channels": 2}))
    with pytest.raises(DataError, match="found 1 and 2"):
        diffusers_denoiser(tmp_path)
    config.write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        diffusers_denoiser(tmp_path)
    config.write_text(json.dumps(said))

    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("mri_minority.backbones.diffusers_folder.importlib.import_module", absent)
    with pytest.raises(UsageError, match=r"pip install .*\[diffusers\]"):
        diffusers_denoiser(tmp_path)
