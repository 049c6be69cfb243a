"""Models of single snapshots: WiMamba, LWM and the raw channel."""
