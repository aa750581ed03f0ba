# Scalar beta with little noise: log sigma is -1 at the start, sigma 0.37, not 1; mechanism
# instead of: self.actor_logstd = nn.Parameter(torch.zeros(act_dim))
# put: self.actor_logstd = nn.Parameter(torch.full((act_dim,), -1.0))
