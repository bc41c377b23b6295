"""Fused Triton kernels for hot paths of deep generative models, each next to a readable reference in plain torch."""

from genbench_kernels.affine_coupling import affine_coupling
from genbench_kernels.op import explain
from genbench_kernels.reparameterize import reparameterize
from genbench_kernels.spectral_norm import remove_spectral_norm_, spectral_norm_

__all__ = ["affine_coupling", "explain", "remove_spectral_norm_", "reparameterize", "spectral_norm_"]
