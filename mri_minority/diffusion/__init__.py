"""The mathematics of diffusion: kernel, denoiser, loss, solvers, guidance. Pure torch, no files."""
