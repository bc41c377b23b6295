"""Spectral normalization of many layers at once (Spectral Normalization for GANs, 2018, eq. 4-9 and algorithm 1).

    u = W v / |W v|,   v = W^T u / |W^T u|,   sigma = u^T W v = |W^T u|,   weight = W / sigma,
    dW = (G - <G, W / sigma> u v^T) / sigma.

W (h, w) is a layer's weight with its output dimension in front and the others flattened; order="legacy" updates v
before u, and sigma = |W v|. As u = W v / |W v|, both products are one sum over rows, W^T (W v) = sum_i w_i (w_i . v).

Bytes, in passes over all weights (float32): forward reads W, writes and reads the sums over blocks of 8 rows, reads W
and writes W / sigma: 3.25, the minimum; of sigma alone 1.25; in eval mode 3 and 1; legacy, by blocks of 32 columns,
3.06. (For a layer of one row the block is that row: 3.29 for DCGAN-64's discriminator.) A block whose rows exceed a
program's registers (1024 elements) is read again, from cache. Backward reads G and W, then G, and writes dW: 4, the
minimum; of sigma alone 1. Each further iteration costs another 1.25.
Launches, for all layers of one dtype together: forward 3 (step, reduce, finish; 2 in eval mode, 2 n_iter + 1 in
general; one more for sigma alone, which is copied), backward 2 (of sigma alone, too: its gradients are stacked).
Weights that are not contiguous are copied first. Under torch.compile the op changes nothing in place, and u and v are
copied by one more launch: forward 4.

Read in this order: `reference` (the equation in plain torch), `kernels`, `plan` (what the kernels know about shapes),
`autograd` (forward and backward), `module` (the public functions), `examples`.
"""

from genbench_kernels.op import Op
from genbench_kernels.spectral_norm.autograd import fused
from genbench_kernels.spectral_norm.examples import examples
from genbench_kernels.spectral_norm.module import SpectralNorm, lower, remove_spectral_norm_, spectral_norm_
from genbench_kernels.spectral_norm.reference import Mode, Order, matrix, reference

__all__ = [
    "OP",
    "Mode",
    "Order",
    "SpectralNorm",
    "fused",
    "matrix",
    "reference",
    "remove_spectral_norm_",
    "spectral_norm_",
]

OP = Op(reference, fused, examples, lower=lower)
