//! Overlays: how frames travel to one neighbour.
