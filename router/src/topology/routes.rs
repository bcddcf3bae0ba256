//! Deterministic routes.

/// Immutable result of one route calculation, shared with the data half.
#[derive(Debug, Clone, Default)]
pub struct Routes {}
