"""Tierwise on Ray Serve: server classes, handles, and the graph that binds them."""
