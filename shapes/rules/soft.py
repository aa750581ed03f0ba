# Soft clip: beta = -w A min(1, (|w - 1| - epsilon) / width) on the kill set
# A ramp in place of the step, which the KLip paper proposes as future work: the push fades out
# over a width behind the edge.
width = 0.2
gate = ((ratio - clipped_ratio).abs() / width).clamp(max=1)
beta = torch.where(kill_set, -ratio * advantages * gate, 0.0).detach()
objective = ratio * advantages + beta * logprob
