"""Models of integers that say p(x) = prod_i p(x_i | x_1 .. x_(i-1)) exactly."""
