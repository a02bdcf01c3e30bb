"""Captioned shapes: a grammar of scenes, how they are drawn, and the data set of them."""
