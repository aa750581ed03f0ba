# CISPO, symmetric: beta = -(w - clip(w)) A; MiniMax-M1, arXiv 2506.13585
# Clips the weight of the gradient, not the gradient: outside the band a sample pushes on as it
# did at the edge. Meant to keep the rare but telling tokens of a language model learning.
# Simplified: the authors bound w from above only, as cispo_upper does; here the band is
# 1 +- epsilon.
beta = (-(ratio - clipped_ratio) * adv_over_n).detach()
objective = ratio * adv_over_n + beta * logprob
