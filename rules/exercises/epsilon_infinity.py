# Epsilon to infinity: beta = 0, the plain surrogate w A; an exercise
# Nothing stops a sample.
beta = 0.0
objective = ratio * adv_over_n + beta * logprob
