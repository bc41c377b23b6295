"""Hot paths of deep generative models as ops: a readable reference and a fused Triton form of each."""

from genbench_kernels.affine_coupling import affine_coupling
from genbench_kernels.op import explain

__all__ = ["affine_coupling", "explain"]
