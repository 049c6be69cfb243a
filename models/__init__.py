"""From tokens to loss: the models that can be pre-trained, their baselines and masks."""
