//! intro
