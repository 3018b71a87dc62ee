"""The builder: a Dockerfile and a context in, an image out. `parse` reads, `plan` arranges, `run` does."""
