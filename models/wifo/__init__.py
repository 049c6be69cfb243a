"""WiFo: the masked auto-encoder with separate positions of slots, antennas and subcarriers."""
