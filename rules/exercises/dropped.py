# Dropped samples: w A, and 0 on the kill set, without min, Phi or beta; an exercise
# The clip's very bits: a killed sample is not pulled back, it only stops to count.
objective = torch.where(kill_set, 0.0, ratio * adv_over_n)
