"""One module a layout in which channels are published; each finds its sets in the files of a source."""
