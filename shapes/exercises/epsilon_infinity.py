# Exercise, epsilon to infinity: sum of w A, beta_t = 0, the plain surrogate
# Nothing stops a sample.
beta = 0.0
objective = ratio * advantages + beta * logprob
