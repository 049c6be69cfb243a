"""HeterCSI: a ViT masked autoencoder on patches of slots, subcarriers and antennas."""
