# CISPO: beta = -(w - min(w, 1 + epsilon)) A; MiniMax-M1, arXiv 2506.13585
# Clips the weight of the gradient, not the gradient, and from above only, as its authors do: a
# bad action that has become rare pushes less and less, as in w A. With a lower edge, too, as in
# cispo, nothing stops it.
beta = torch.where(ratio > 1, -(ratio - clipped_ratio) * adv_over_n, 0.0).detach()
objective = ratio * adv_over_n + beta * logprob
