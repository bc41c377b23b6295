"""Speed tests of genbench_kernels against realistic baselines, for machines with a GPU: `make gpu-check`."""
