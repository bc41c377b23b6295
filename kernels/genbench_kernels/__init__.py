"""Hot paths of deep generative models as ops: a readable reference and a fused Triton form of each."""

from genbench_kernels.affine_coupling import affine_coupling
from genbench_kernels.op import explain
from genbench_kernels.reparameterize import reparameterize
from genbench_kernels.spectral_norm import remove_spectral_norm_, spectral_norm_

__all__ = ["affine_coupling", "explain", "remove_spectral_norm_", "reparameterize", "spectral_norm_"]
