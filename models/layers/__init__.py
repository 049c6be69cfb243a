"""Layers, masks and packed batches that several models share."""
