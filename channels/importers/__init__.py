"""Import of other people's channels: what lies in a source, and how it becomes sets of a store.

May import the rest of channels; inside: files < axes, found, options < parameters, reading < assemble < formats <
survey < write.
"""
