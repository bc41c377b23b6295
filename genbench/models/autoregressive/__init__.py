"""Models with exact probabilities of integers, p(x) = prod_i p(x_i | x_1 .. x_(i-1))."""
