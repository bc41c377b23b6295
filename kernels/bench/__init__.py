"""Speed tests of genbench_kernels beside honest baselines, for machines with a GPU: `make gpu-check`."""
